package adminclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/ownership"
	"github.com/kmsgate/kmsgate/internal/unixsocket"
)

// A Gateway says which gateway a client calls. Anything else that listens at the socket gets
// nothing from the client, whose error is then ErrUntrusted:
//
//   - a process that is neither root's, nor this process's user's, nor Owner's;
//   - a socket in a directory that another user can write, or below one that all users can write;
//   - a gateway of another instance.
type Gateway struct {
	Socket string // the path of the admin socket

	// Owner is the uid that the gateway may run as, apart from root and this process's user: the
	// owner of the gateway's directory. 0 adds none.
	Owner int

	// Instance is the id of the gateway's instance. If it is empty, the client does not compare it.
	Instance string
}

// ErrUntrusted means that something else than the expected gateway listens at the socket. It ends
// the sentence that says what that is.
var ErrUntrusted = errors.New("nothing was sent to it")

// The time that the gateway has to accept a connection, and to say which instance it is.
const (
	dialTime  = time.Second
	helloTime = time.Minute
)

// connect connects to the gateway, and makes sure that it is the right one.
func (g Gateway) connect(ctx context.Context) (net.Conn, error) {
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, err := unixsocket.Dial(dialing, g.Socket)
	if err != nil {
		return nil, err
	}
	err = g.checkPeer(conn)
	if err == nil && g.Instance != "" {
		err = g.checkInstance(conn)
	}
	if err != nil {
		_ = conn.Close() // nothing was sent that could be lost
		return nil, err
	}
	return conn, nil
}

// checkPeer checks who listens, and who could have put the socket there.
func (g Gateway) checkPeer(conn net.Conn) error {
	if err := ownership.CheckDirectory(filepath.Dir(g.Socket), g.Owner); err != nil {
		return fmt.Errorf("the admin socket %q is in a directory that others control: %w; %w", g.Socket, err, ErrUntrusted)
	}
	uid, _, err := unixsocket.Peer(conn)
	if err != nil {
		return fmt.Errorf("cannot identify the process at the admin socket %q: %w; %w", g.Socket, err, ErrUntrusted)
	}
	if !ownership.Trusts(int(uid), g.Owner) {
		return fmt.Errorf("the process at the admin socket %q belongs to uid %d, and not to root, to you (uid %d) or to the "+
			"owner of the instance's directory: %w (if it is the gateway, run the command as uid %[2]d, or name the "+
			"gateway's configuration with --config)", g.Socket, uid, os.Geteuid(), ErrUntrusted)
	}
	return nil
}

// checkInstance asks which instance the gateway has, with a request that holds nothing.
func (g Gateway) checkInstance(conn net.Conn) error {
	answer, err := hello(conn)
	if err != nil {
		// For the caller, there is no connection: nothing of the caller's was sent.
		return &net.OpError{Op: "dial", Net: "unix", Addr: conn.RemoteAddr(), Err: err}
	}
	if got := answer.Header.Get(kms.InstanceHeader); got != g.Instance {
		return fmt.Errorf("the gateway at the admin socket %q has the instance %q, but the configuration has %q: %w "+
			"(correct instance.id or admin.socket, and restart the gateway if either has changed)", g.Socket, got, g.Instance, ErrUntrusted)
	}
	return nil
}

// hello makes a HEAD request, and leaves the connection ready for the next one.
func hello(conn net.Conn) (*http.Response, error) {
	if err := conn.SetDeadline(time.Now().Add(helloTime)); err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodHead, "http://kmsgate/", nil)
	if err != nil {
		return nil, err
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, err
	}
	// The answer to a HEAD has no body.
	if answer.Close || reader.Buffered() > 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return answer, conn.SetDeadline(time.Time{})
}
