package events

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// ConfigRegion is the region token of the stream CONFIG. No region can have
// this name, because names begin with a letter or digit.
const ConfigRegion = "_config"

// Subject is where an event is written. Unused places are empty here and "-" in
// the text.
type Subject struct {
	Region, App, User, ID string
	Kind                  Kind
}

const none = "-"

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

func fromNone(s string) string {
	if s == none {
		return ""
	}
	return s
}

// String returns the subject's text, "ev.<region>.<app>.<user>.<id>.<kind>".
func (s Subject) String() string {
	return "ev." + s.Region + "." + orNone(s.App) + "." + orNone(s.User) + "." + orNone(s.ID) + "." + string(s.Kind)
}

// ParseSubject reads the text form. Each place must be of the characters
// [A-Za-z0-9_-].
func ParseSubject(text string) (Subject, error) {
	rest, ok := strings.CutPrefix(text, "ev.")
	if !ok {
		return Subject{}, fmt.Errorf("not a subject of events: %q", text)
	}
	var part [5]string
	for i := range part {
		last := i == len(part)-1
		end := strings.IndexByte(rest, '.')
		if last != (end < 0) {
			return Subject{}, fmt.Errorf("not a subject of events: %q", text)
		}
		if last {
			end = len(rest)
		}
		part[i] = rest[:end]
		if !plain(part[i]) {
			return Subject{}, fmt.Errorf("not a subject of events: %q", text)
		}
		if !last {
			rest = rest[end+1:]
		}
	}
	return Subject{
		Region: part[0], App: fromNone(part[1]), User: fromNone(part[2]), ID: fromNone(part[3]), Kind: Kind(part[4]),
	}, nil
}

func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return s != ""
}

// UserHash returns how a user appears in subjects: the first 22 characters of
// base64url(SHA-256(app, NUL, user)). An empty user, the whole app, is "".
func UserHash(app, user string) string {
	if user == "" {
		return ""
	}
	h := userHash(app, user)
	return string(h[:])
}

func userHash(app, user string) (text [22]byte) {
	h := make([]byte, 0, 128)
	h = append(h, app...)
	h = append(h, 0)
	h = append(h, user...)
	sum := sha256.Sum256(h)
	// 22 characters are 16 bytes and the first 4 bits of the next.
	var all [43]byte
	b64.Encode(all[:], sum[:])
	return [22]byte(all[:])
}

var name = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// ValidName reports whether s may name an app, a region, a node or a setting:
// [a-z0-9][a-z0-9_-]{0,63}.
func ValidName(s string) bool { return name.MatchString(s) }

// SessionSubject returns the subject of one kind of event about a session.
func SessionSubject(region, app, user string, sid SID, k Kind) Subject {
	return Subject{Region: region, App: app, User: UserHash(app, user), ID: sid.String(), Kind: k}
}

// Subject implements [Event].
func (e *State) Subject(region string) Subject {
	return SessionSubject(region, e.App, e.User, e.SID, KindState)
}

// Subject implements [Event].
func (e *Touch) Subject(region string) Subject {
	return SessionSubject(region, e.App, e.User, e.SID, KindTouch)
}

// Subject implements [Event].
func (e *Revoke) Subject(region string) Subject {
	return SessionSubject(region, e.App, e.User, e.SID, KindRevoke)
}

// Subject implements [Event].
func (e *Expire) Subject(region string) Subject {
	return SessionSubject(region, e.App, e.User, e.SID, KindExpire)
}

// Subject implements [Event]. Each home that was out of reach has a subject of
// its own, or one would take the place of another.
func (e *RevokeAll) Subject(region string) Subject {
	s := Subject{Region: region, App: e.App, User: UserHash(e.App, e.User), Kind: KindAll}
	if e.Home != 0 {
		s.ID = strconv.FormatUint(uint64(e.Home), 10)
	}
	return s
}

// Home returns the number of the home stream that an "all" on this subject is
// about, 0 for the stream it stands in; and false for any other subject.
func (s Subject) Home() (number uint8, ok bool) {
	if s.Kind != KindAll || s.ID == "" {
		return 0, s.Kind == KindAll
	}
	n, err := strconv.ParseUint(s.ID, 10, 8)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s.ID {
		return 0, false
	}
	return uint8(n), true
}

// Subject implements [Event].
func (e *App) Subject(region string) Subject {
	return Subject{Region: region, App: e.App, Kind: KindApp}
}

// Subject implements [Event].
func (e *SigningKey) Subject(region string) Subject {
	return Subject{Region: region, App: e.App, ID: e.KID, Kind: KindKey}
}

// Subject implements [Event].
func (e *APIKey) Subject(region string) Subject {
	return Subject{Region: region, App: e.App, ID: e.ID, Kind: KindAPIKey}
}

// Subject implements [Event].
func (e *Setting) Subject(region string) Subject {
	return Subject{Region: region, App: e.App, User: e.Type, ID: e.Name, Kind: KindSetting}
}

// Subject implements [Event].
func (e *Work) Subject(region string) Subject {
	return Subject{Region: region, App: e.App, User: e.Type, ID: e.Name, Kind: KindWork}
}

// Subject implements [Event].
func (e *Region) Subject(region string) Subject {
	return Subject{Region: region, ID: e.Region, Kind: KindRegion}
}

// Subject implements [Event].
func (e *Node) Subject(region string) Subject {
	return nodeSubject(region, e.Node, e.Incarnation, e.N, KindNode)
}

// Subject implements [Event].
func (e *Beat) Subject(region string) Subject {
	return nodeSubject(region, e.Node, e.Incarnation, e.N, KindBeat)
}

// Subject implements [Event].
func (e *Marker) Subject(region string) Subject {
	return nodeSubject(region, e.Node, e.Incarnation, e.N, KindMarker)
}

func nodeSubject(region, node string, i Incarnation, n uint64, k Kind) Subject {
	return Subject{Region: region, User: node, ID: fmt.Sprintf("%s-%d", i, n), Kind: k}
}
