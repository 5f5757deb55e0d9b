package archive

// Unpack is unpack, for a fuzzer that cannot pass the encryption.
var Unpack = unpack
