// Package front accepts connections: it limits their number, in total and per source,
// distinguishes TLS from plain HTTP, and identifies the peer of a unix socket.
//
// It guarantees that
//
//   - connections never use more than half of the file descriptors that the process may
//     open;
//   - one source cannot take all connections;
//   - a silent connection delays no other, and is closed after 5 s;
//   - a client can send at most 24 KiB before its TLS handshake is complete.
package front
