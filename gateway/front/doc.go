// Package front is where connections come in: how many there may be, whose they are,
// and whether they speak TLS.
//
// It guarantees that connections never take more than half of the files that the process
// may open, that one source cannot take them all, that a connection which says nothing
// keeps nobody waiting, and that a client can send little before its handshake is done.
// What a connection then asks for is not its business.
package front
