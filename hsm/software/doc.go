// Package software keeps key pairs in files, and signs with them in this process. It protects
// nothing, and is for tests: of programs that use a gateway, and of a gateway on a machine without
// a PKCS#11 module. It needs no C compiler.
//
// Apart from that it is a backend like any other: hsmtest holds it to the same contract. It reports
// that every key can leave it.
package software
