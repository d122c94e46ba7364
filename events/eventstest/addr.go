package eventstest

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
)

// Ports of FreeAddr lie below those that systems give to outgoing connections
// (from 32768 on in Linux): one of these could be taken between two tests of a
// suite that opens thousands of connections.
const (
	firstPort = 12000
	ports     = 20000
)

// nextPort differs between processes that run at the same time.
var nextPort atomic.Uint32

func init() { nextPort.Store(rand.Uint32N(ports)) }

// FreeAddr returns a loopback address on which nothing listens, another one each
// time, for a server that must be told its address before it starts.
func FreeAddr() (string, error) {
	for range ports {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+int(nextPort.Add(1)%ports)))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		return addr, l.Close()
	}
	return "", errors.New("no free port")
}
