package archive

// Unpack is Extract behind the encryption, which no fuzzer gets through.
var Unpack = unpack
