package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/revocast/revocast/node/outbound"
)

const (
	// sendTimeout is how long an endpoint has to answer.
	sendTimeout = 10 * time.Second
	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 64 << 10
	// The time between attempts, which doubles from the one to the other; about a
	// quarter of it is left to chance, so that many endpoints of one server that was
	// down do not come back at once. maxRetryAfter is the longest that an endpoint may
	// ask for.
	firstRetry    = time.Second
	lastRetry     = 15 * time.Minute
	maxRetryAfter = time.Hour
)

// verdict is what an attempt came to.
type deliveryVerdict uint8

const (
	unsaid       deliveryVerdict = iota // it is not known: what was to wait for it has ended
	taken                               // the endpoint took it, or is not to be told of it
	failedToSend                        // no answer, or one that says nothing of the event
	refused                             // the endpoint answered that it does not take this event
	goneForGood                         // the endpoint answered that it is gone
)

// Results of attempts, as metrics have them.
const (
	deliveryTaken   = "delivered"
	deliveryFailed  = "failed"
	deliveryRefused = "refused"
	deliveryDead    = "dead_letter"
)

// attempted is what an attempt came to, and why. The reason is one of few words: it is
// shown to the app, and must not tell it what lies behind the node.
type attempted struct {
	verdict deliveryVerdict
	status  int // of the answer; 0: none
	reason  string
	after   time.Duration // that the endpoint asks to be left alone
	sent    int           // requests that were answered
	// final: that it was refused is the receiver's last word on this event.
	final bool
}

// judgeAnswer is what the statuses of HTTP mean: 2xx that it was taken, 410 that the
// endpoint is gone, 4xx that this is no good but for those that say "later", and all
// else, a redirect too, that it is to be tried again.
func judgeAnswer(a *outbound.Answer) attempted {
	out := attempted{verdict: failedToSend, status: a.Status, reason: "status_" + strconv.Itoa(a.Status)}
	switch s := a.Status; {
	case s >= 200 && s < 300:
		out.verdict, out.reason = taken, ""
	case s >= 300 && s < 400:
		out.reason = "redirect"
	case s == http.StatusGone:
		out.verdict, out.reason = goneForGood, "gone"
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusTooManyRequests:
	case s >= 400 && s < 500:
		out.verdict = refused
	}
	return out
}

// send sends all that tells the endpoint of the event. Each request may take what is
// left at the time (Clock.Boot) it is sent. One that is refused as such says nothing
// of those after it: they are sent, and all of them again with the next attempt.
func (n *Node) send(ctx context.Context, to endpoint, e *feedEvent, left func(now time.Duration) time.Duration) attempted {
	all, err := to.requests(e)
	if err != nil {
		n.conf.Log.Error("a delivery cannot be written", "app", e.AppID, "error", err)
		return attempted{verdict: failedToSend, reason: "internal"}
	}
	done := attempted{verdict: taken}
	for _, r := range all {
		out := n.sendOne(ctx, to, r, left)
		out.sent += done.sent
		switch {
		case out.verdict != taken && out.verdict != refused:
			return out
		case done.verdict == refused:
			done.sent = out.sent
		default:
			done = out
		}
	}
	return done
}

func (n *Node) sendOne(ctx context.Context, to endpoint, r *http.Request, left func(now time.Duration) time.Duration) attempted {
	most := min(sendTimeout, left(n.conf.Clock.Boot()))
	if most <= 0 {
		return attempted{}
	}
	within, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	a, err := n.conf.Outbound.Do(within, r, maxAnswer)
	switch {
	case a != nil:
		out := to.judge(a)
		out.sent = 1
		out.after = retryAfter(a.Header.Get("Retry-After"), n.conf.Clock.Wall())
		return out
	case ctx.Err() != nil, most < sendTimeout && left(n.conf.Clock.Boot()) <= 0: // nobody may have waited for it to the end
		return attempted{}
	}
	return attempted{verdict: failedToSend, reason: unreachable(err)}
}

// unreachable says in a word why there was no answer.
func unreachable(err error) string {
	wrapped, ok := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, outbound.ErrForbidden):
		return "address_forbidden"
	case errors.Is(err, context.DeadlineExceeded), ok && wrapped.Timeout():
		return "timeout"
	}
	return "unreachable"
}

// retryAfter reads a Retry-After (RFC 9110 section 10.2.3); 0 without a good one.
func retryAfter(text string, now time.Time) time.Duration {
	after := time.Duration(0)
	if s, err := strconv.ParseUint(text, 10, 31); err == nil {
		after = time.Duration(s) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		after = at.Sub(now)
	}
	return min(max(0, after), maxRetryAfter)
}

// pause returns the time until the next attempt, after so many failed ones.
func (o *attempted) pause(attempts int) time.Duration {
	wait := lastRetry
	if attempts < 20 {
		wait = min(lastRetry, firstRetry<<(attempts-1))
	}
	wait = wait*7/8 + rand.N(wait/4)
	return max(wait, o.after)
}
