// Package front accepts connections: it limits how many there are, in total and from one
// source, tells TLS from plain HTTP, and knows the peer of a unix socket.
//
// It guarantees that
//
//   - connections never take more than half of the files that the process may open;
//   - one source cannot take all connections;
//   - a silent connection delays no other, and is closed after some seconds;
//   - a client can send only some KB before its TLS handshake is done.
package front
