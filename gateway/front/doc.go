// Package front accepts connections: it limits their number, in total and per source,
// distinguishes TLS from plain HTTP, and identifies the peer of a unix socket.
//
// It guarantees that
//
//   - connections never use more than half of the file descriptors that the process may
//     open;
//   - a connection on which a caller has authenticated is not closed for another. If there are
//     too many connections, the oldest of the others makes room. A quarter of the connections is
//     kept for sources from which a caller authenticated within ten minutes;
//   - one source cannot take all connections;
//   - a silent connection delays no other, and is closed after 5 s;
//   - a client can send at most 24 KiB before its TLS handshake is complete;
//   - a request's header has at most 128 fields with 16 KiB. Of the headers that are larger than
//     16 KiB with their request line, at most 64 at once come from unknown sources.
package front
