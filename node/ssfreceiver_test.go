package node_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

const (
	caep     = "https://schemas.openid.net/secevent/caep/event-type/"
	ssfEvent = "https://schemas.openid.net/secevent/ssf/event-type/"
	pushing  = "urn:ietf:rfc:8935"
	polling  = "urn:ietf:rfc:8936"
)

// ssfReceiver is a receiver of Shared Signals: an API key and its stream.
type ssfReceiver struct {
	*harness
	key string
	id  string
}

// receive makes a stream for a new API key. Without a body all is polled.
func (h *harness) receive(body m) *ssfReceiver {
	h.t.Helper()
	r := &ssfReceiver{harness: h, key: h.apiKey(h.app, api.ScopeSSF)}
	r.id = h.do(r.key, "POST", "/ssf/streams", body).want(http.StatusCreated).str("stream_id")
	return r
}

// at is the same receiver before another node.
func (r *ssfReceiver) before(h *harness) *ssfReceiver {
	return &ssfReceiver{harness: h, key: r.key, id: r.id}
}

func (r *ssfReceiver) poll(body m) *reply {
	r.t.Helper()
	return r.do(r.key, "POST", "/ssf/poll/"+r.id, body).want(http.StatusOK)
}

// now polls without waiting and returns the SETs by jti.
func (r *ssfReceiver) now(acks ...string) map[string]string {
	r.t.Helper()
	return setsOf(r.poll(m{"returnImmediately": true, "ack": acks}))
}

func setsOf(p *reply) map[string]string {
	p.t.Helper()
	out := map[string]string{}
	all, ok := p.at("sets").(map[string]any)
	if !ok {
		p.t.Fatalf("no sets: %s", p.Raw)
	}
	for jti, token := range all {
		out[jti] = token.(string)
	}
	return out
}

// heardSET is what a SET says.
type heardSET struct {
	jti, txn, event string
	payload, sub    map[string]any
	claims          map[string]any
}

// read checks a SET as RFC 8417 and SSF 1.0 say, with a key of the JWKS, and returns
// what it says.
func (r *ssfReceiver) read(token string) heardSET {
	r.t.Helper()
	part := strings.Split(token, ".")
	var header struct{ Typ, Alg, Kid string }
	var claims map[string]any
	for i, into := range []any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(part[i])
		if err != nil || json.Unmarshal(text, into) != nil {
			r.t.Fatalf("SET %s", token)
		}
	}
	key := r.jwks()[header.Kid]
	sig, _ := base64.RawURLEncoding.DecodeString(part[2])
	if key == nil || header.Typ != "secevent+jwt" || header.Alg != "RS256" || key.CheckSignature(part[0]+"."+part[1], sig) != nil {
		r.t.Fatalf("header %+v, or its signature", header)
	}
	all := claims["events"].(map[string]any)
	if claims["iss"] != publicURL || claims["aud"] != publicURL+"/ssf/streams/"+r.id || len(all) != 1 || claims["sub"] != nil || claims["exp"] != nil {
		r.t.Errorf("claims %v", claims)
	}
	out := heardSET{claims: claims, jti: claims["jti"].(string), sub: claims["sub_id"].(map[string]any)}
	out.txn, _ = claims["txn"].(string)
	for uri, payload := range all {
		out.event, out.payload = uri, payload.(map[string]any)
	}
	return out
}

func (h *harness) jwks() map[string]*signer.Key {
	h.t.Helper()
	keys := map[string]*signer.Key{}
	for _, raw := range h.do("", "GET", "/ssf/jwks.json", nil).want(http.StatusOK).at("keys").([]any) {
		text, _ := json.Marshal(raw)
		k, err := signer.ParsePublic(text)
		if err != nil {
			h.t.Fatal(err)
		}
		keys[k.ID] = k
	}
	return keys
}

// events reads all SETs that wait and acknowledges them, by event, in no order.
func (r *ssfReceiver) all() (all []heardSET) {
	r.t.Helper()
	var acks []string
	for {
		got := r.now(acks...)
		if len(got) == 0 {
			return all
		}
		acks = slices.Collect(maps.Keys(got))
		for jti, token := range got {
			e := r.read(token)
			if e.jti != jti {
				r.t.Errorf("jti %s is under %s", e.jti, jti)
			}
			all = append(all, e)
		}
	}
}

func names(all []heardSET) (out []string) {
	for _, e := range all {
		out = append(out, e.event[strings.LastIndexByte(e.event, '/')+1:])
	}
	slices.Sort(out)
	return out
}

func (r *ssfReceiver) wantTold(want ...string) []heardSET {
	r.t.Helper()
	all := r.all()
	if got := names(all); !slices.Equal(got, want) {
		r.t.Fatalf("told %v, want %v", got, want)
	}
	return all
}
