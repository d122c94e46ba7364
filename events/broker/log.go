package broker

import (
	"fmt"
	"log/slog"
	"sync"
)

// logBridge carries nats-server's lines into slog. The server's notices are its
// start-up chatter, so they arrive as debug; the node logs its own start.
type logBridge struct {
	log *slog.Logger

	mu    sync.Mutex // guards first
	first string     // text of the first fatal line
}

func (l *logBridge) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

// Fatalf must not end the process, which is what the server expects of it: the
// server stops what it was doing, and Start or Restart returns the text.
func (l *logBridge) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	if l.first == "" {
		l.first = text
	}
	l.mu.Unlock()
	l.log.Error("nats-server", "text", text)
}

func (l *logBridge) Noticef(format string, v ...any) {
	l.log.Debug("nats-server", "text", fmt.Sprintf(format, v...))
}

// noPassword is what the server says of the one user every client is, who has
// no password: Config.Listen says to whom that leaves the port.
const noPassword = "Plaintext passwords detected, use nkeys or bcrypt"

func (l *logBridge) Warnf(format string, v ...any) {
	if format == noPassword {
		l.Noticef(format, v...)
		return
	}
	l.log.Warn("nats-server", "text", fmt.Sprintf(format, v...))
}

func (l *logBridge) Errorf(format string, v ...any) {
	l.log.Error("nats-server", "text", fmt.Sprintf(format, v...))
}

// Debugf and Tracef are never called: startServer turns both off, because
// traces hold payloads.
func (l *logBridge) Debugf(string, ...any) {}

func (l *logBridge) Tracef(string, ...any) {}
