package node

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/revocast/revocast/events"
	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/projection"
)

// This node is a transmitter of Shared Signals (SSF 1.0, CAEP 1.0): receivers make
// a stream with their API key, and are told of the sessions of the app.

// ssfWellKnown is where the metadata is, before the path of the issuer if it has
// one (SSF 1.0 section 7.2).
const ssfWellKnown = "/.well-known/ssf-configuration"

func (n *Node) ssfRoutes() []route {
	return []route{
		{pattern: "GET " + ssfWellKnown, handle: n.ssfMetadata, cors: corsAny, open: true},
		{pattern: "GET " + ssfWellKnown + "/{path...}", handle: n.ssfMetadata, cors: corsAny, open: true},
		{pattern: "GET /ssf/jwks.json", handle: n.ssfJWKS, cors: corsAny, open: true},
		{pattern: "POST /ssf/streams", scope: api.ScopeSSF, handle: n.createSSFStream, open: true},
		{pattern: "GET /ssf/streams", scope: api.ScopeSSF, handle: n.getSSFStreams, open: true},
		{pattern: "PATCH /ssf/streams", scope: api.ScopeSSF, handle: n.patchSSFStream, open: true},
		{pattern: "PUT /ssf/streams", scope: api.ScopeSSF, handle: n.putSSFStream, open: true},
		{pattern: "DELETE /ssf/streams", scope: api.ScopeSSF, handle: n.deleteSSFStream, open: true},
		{pattern: "GET /ssf/status", scope: api.ScopeSSF, handle: n.getSSFStatus, open: true},
		{pattern: "POST /ssf/status", scope: api.ScopeSSF, handle: n.setSSFStatus, open: true},
		{pattern: "POST /ssf/verify", scope: api.ScopeSSF, handle: n.verifySSFStream, open: true},
		{pattern: "POST /ssf/replay", scope: api.ScopeSSF, handle: n.replaySSFStream, open: true},
		{pattern: "POST /ssf/poll/{stream_id}", scope: api.ScopeSSF, handle: n.pollSSFStream, open: true},
	}
}

// ssfMetadata answers GET /.well-known/ssf-configuration. An API key is what RFC
// 6749 calls an access token that was had by another method than its own, and is
// shown as RFC 6750 says.
func (n *Node) ssfMetadata(_ context.Context, c *call) (int, any, error) {
	c.h.Set("Access-Control-Allow-Origin", "*")
	base, err := url.Parse(n.issuer)
	if err != nil {
		return 0, nil, err
	}
	if path := c.r.PathValue("path"); path != "" && path != strings.TrimPrefix(base.Path, "/") {
		return 0, nil, fail(api.NotFound, "the issuer is %s", n.issuer)
	}
	m := &api.SSFMetadata{
		SpecVersion: "1_0", Issuer: n.issuer, JWKSURI: n.issuer + "/ssf/jwks.json",
		DeliveryMethods: []string{ssfPush, ssfPoll},
		Configuration:   n.issuer + "/ssf/streams", Status: n.issuer + "/ssf/status", Verification: n.issuer + "/ssf/verify",
		// The same user id or session may be there in another app.
		CriticalSubjects: []string{"tenant"},
		Authorization:    []api.SSFScheme{{SpecURN: "urn:ietf:rfc:6749"}, {SpecURN: "urn:ietf:rfc:6750"}},
		DefaultSubjects:  "ALL",
	}
	return cached(c, m, m, "")
}

func (n *Node) ssfPollURL(id string) string { return n.issuer + "/ssf/poll/" + id }

func (n *Node) ssfAudience(id string) string { return n.issuer + "/ssf/streams/" + id }

func (n *Node) showSSF(s *ssfStream) *api.SSFStream {
	out := &api.SSFStream{
		StreamID: s.ID, Issuer: n.issuer, Audience: n.ssfAudience(s.ID),
		EventsSupported: caepEvents, EventsRequested: s.Requested, EventsDelivered: s.delivers(),
		Delivery:        api.SSFDelivery{Method: s.Method, EndpointURL: s.URL},
		MinVerification: minVerification, Description: s.Description, SubjectFormat: s.Format,
	}
	if s.Method == ssfPoll {
		out.Delivery.EndpointURL = n.ssfPollURL(s.ID)
	}
	return out
}

// createSSFStream answers POST /ssf/streams. A receiver, which is an API key, has
// one stream.
func (n *Node) createSSFStream(ctx context.Context, c *call) (int, any, error) {
	r, err := c.readSSFRequest()
	if err != nil {
		return 0, nil, err
	}
	id := ssfStreamID(c.caller.app, c.caller.keyID)
	s := &ssfStream{ID: id, App: c.caller.app, Key: c.caller.keyID, Status: ssfEnabled}
	if !c.caller.cluster {
		s.KeyApp = c.caller.app
	}
	header, err := n.take(s, &r, true, nil)
	if err != nil {
		return 0, nil, err
	}
	if err := n.checkSSFGiven(s, &r); err != nil {
		return 0, nil, err
	}
	if err := n.needSSFKey(ctx, c.caller.keyID); err != nil {
		return 0, nil, err
	}
	_, err = n.editSetting(ctx, s.App, ssfStreamType, id, s.Key, func(snap *projection.Snapshot, held *events.Setting) (json.RawMessage, []byte, error) {
		if held != nil {
			return nil, nil, fail(api.AlreadyExists, "this API key has the stream %s; change that, or use another key", id).with("stream_id", id)
		}
		// What is noted of an earlier one of that key may be of a clock that was ahead.
		noted, err := ssfEpoch(snap, s)
		if err != nil {
			return nil, nil, err
		}
		s.Epoch = max(s.Epoch, noted)
		s.beginAt(n, snap, n.revisionNow(), n.wall())
		value, err := marshal(s)
		return value, header, err
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, n.showSSF(s), nil
}

// streamParam returns the stream that the query names.
func streamParam(c *call) string { return c.r.URL.Query().Get("stream_id") }

func needStream(id string) error {
	if id == "" {
		return badSetting("stream_id", "required")
	}
	return nil
}

// getSSFStreams answers GET /ssf/streams: the stream that the query names, or else
// an array of those of the caller's API key; with ?all=true of all keys of the app,
// for who may administer it.
func (n *Node) getSSFStreams(_ context.Context, c *call) (int, any, error) {
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	if id := streamParam(c); id != "" {
		s, err := ssfStreamIn(snap, &c.caller, id)
		if err != nil {
			return 0, nil, err
		}
		return http.StatusOK, n.showSSF(s), nil
	}
	everyone := c.r.URL.Query().Get("all") == "true"
	if everyone && !c.caller.may(api.ScopeAdmin) {
		return 0, nil, fail(api.Forbidden, "the streams of other keys need the scope %s", api.ScopeAdmin).with("scope", api.ScopeAdmin)
	}
	list := []*api.SSFStream{}
	for _, held := range snap.SettingsOf(c.caller.app, ssfStreamType) {
		s, err := readSSFStream(held)
		if err != nil {
			return 0, nil, err
		}
		if everyone || s.of(&c.caller) {
			list = append(list, n.showSSF(s))
		}
	}
	return http.StatusOK, &list, nil
}

func (n *Node) patchSSFStream(ctx context.Context, c *call) (int, any, error) {
	return n.changeSSFStream(ctx, c, false)
}

func (n *Node) putSSFStream(ctx context.Context, c *call) (int, any, error) {
	return n.changeSSFStream(ctx, c, true)
}

func (n *Node) changeSSFStream(ctx context.Context, c *call, replace bool) (int, any, error) {
	r, err := c.readSSFRequest()
	if err != nil {
		return 0, nil, err
	}
	if err := needStream(r.StreamID); err != nil {
		return 0, nil, err
	}
	s, err := n.editSSFStreamIn(ctx, &c.caller, r.StreamID, func(snap *projection.Snapshot, s *ssfStream, header []byte) ([]byte, error) {
		if err := n.checkSSFGiven(s, &r); err != nil {
			return nil, err
		}
		was := *s
		header, err := n.take(s, &r, replace, header)
		if err != nil {
			return nil, err
		}
		switch {
		case s.Method != was.Method: // what one way has not told yet the other does
			at, err := n.ssfPlace(snap, &was)
			if err != nil {
				return nil, err
			}
			s.beginAt(n, snap, at, was.Delivery.BornAt)
		case s.Method == ssfPush && (r.hasDelivery || replace):
			s.Delivery.Turn++ // what was wrong may be right by now
		}
		return header, nil
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, n.showSSF(s), nil
}

// checkSSFGiven refuses what the transmitter decides and the receiver has another
// opinion of (SSF 1.0 section 8.1.1.3).
func (n *Node) checkSSFGiven(s *ssfStream, r *ssfRequested) error {
	same := func(given, is []string) bool {
		given, is = slices.Clone(given), slices.Clone(is)
		slices.Sort(given)
		slices.Sort(is)
		return given == nil || slices.Equal(given, is)
	}
	for field, ok := range map[string]bool{
		"stream_id":                 r.StreamID == "" || r.StreamID == s.ID,
		"iss":                       r.Issuer == "" || r.Issuer == n.issuer,
		"aud":                       r.Audience == "" || r.Audience == n.ssfAudience(s.ID),
		"events_supported":          same(r.EventsSupported, caepEvents),
		"events_delivered":          r.EventsRequested != nil || same(r.EventsDelivered, s.delivers()),
		"min_verification_interval": r.MinVerification == nil || *r.MinVerification == minVerification,
	} {
		if !ok {
			return badSetting(field, "is the transmitter's to say, and is another")
		}
	}
	return nil
}

func (n *Node) deleteSSFStream(ctx context.Context, c *call) (int, any, error) {
	id := streamParam(c)
	if err := errors.Join(needStream(id), c.nothing()); err != nil {
		return 0, nil, err
	}
	_, err := n.editSetting(ctx, c.caller.app, ssfStreamType, id, c.caller.keyID, func(snap *projection.Snapshot, _ *events.Setting) (json.RawMessage, []byte, error) {
		_, err := ssfStreamIn(snap, &c.caller, id)
		return nil, nil, err
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}

func (n *Node) getSSFStatus(_ context.Context, c *call) (int, any, error) {
	id := streamParam(c)
	if err := needStream(id); err != nil {
		return 0, nil, err
	}
	snap, err := n.administer()
	if err != nil {
		return 0, nil, err
	}
	s, err := ssfStreamIn(snap, &c.caller, id)
	if err != nil {
		return 0, nil, err
	}
	p, err := n.ssfProgress(snap, s)
	if err != nil {
		return 0, nil, err
	}
	out := &api.SSFStatus{StreamID: id, Failed: p.Failed, SETErrors: p.Errors}
	if out.Status, out.Reason = n.ssfStatus(snap, s); s.Method == ssfPush {
		out.Delivery = n.ssfDelivery(snap, s)
	}
	return http.StatusOK, out, nil
}

// setSSFStatus answers POST /ssf/status. A paused stream goes on where it was; one
// that was disabled begins anew.
func (n *Node) setSSFStatus(ctx context.Context, c *call) (int, any, error) {
	var in api.SSFStatus
	if err := c.readSSF(&in); err != nil {
		return 0, nil, err
	}
	if err := errors.Join(needStream(in.StreamID), checkText("reason", in.Reason, maxReason)); err != nil {
		return 0, nil, err
	}
	if !slices.Contains([]string{ssfEnabled, ssfPaused, ssfDisabled}, in.Status) {
		return 0, nil, badSetting("status", "want enabled, paused or disabled")
	}
	s, err := n.editSSFStreamIn(ctx, &c.caller, in.StreamID, func(snap *projection.Snapshot, s *ssfStream, header []byte) ([]byte, error) {
		was := s.Status
		s.Status, s.Reason = in.Status, in.Reason
		switch {
		case was == ssfDisabled && in.Status != ssfDisabled:
			s.beginAt(n, snap, n.revisionNow(), n.wall())
		case s.Method == ssfPush:
			s.Delivery.enable(in.Status == ssfEnabled)
		}
		return header, nil
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.SSFStatus{StreamID: s.ID, Status: s.Status, Reason: s.Reason}, nil
}

// replaySSFStream answers POST /ssf/replay, which is no part of SSF: the events of the
// regions that the revision names are told again from there, as they were told.
func (n *Node) replaySSFStream(ctx context.Context, c *call) (int, any, error) {
	var in api.SSFReplay
	if err := c.decode(&in); err != nil {
		return 0, nil, err
	}
	if err := needStream(in.StreamID); err != nil {
		return 0, nil, err
	}
	from, err := n.replayable(in.From)
	if err != nil {
		return 0, nil, err
	}
	s, err := n.editSSFStreamIn(ctx, &c.caller, in.StreamID, func(snap *projection.Snapshot, s *ssfStream, header []byte) ([]byte, error) {
		if s.Method == ssfPush {
			s.Delivery.again(from)
			return header, nil
		}
		at, err := n.ssfPlace(snap, s)
		if err != nil {
			return nil, err
		}
		for i, p := range at {
			if text, ok := from[p.Stream]; ok {
				if at[i], err = events.ParsePosition(earlier(p.String(), text, n.streamOf(p.Stream).position().Gen)); err != nil {
					return nil, err
				}
			}
		}
		s.beginAt(n, snap, at, 0)
		return header, nil
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.SSFStatus{StreamID: s.ID, Status: s.Status, Reason: s.Reason}, nil
}

// verifySSFStream answers POST /ssf/verify: an event that says nothing goes through
// the stream.
func (n *Node) verifySSFStream(ctx context.Context, c *call) (int, any, error) {
	var in api.SSFVerify
	if err := c.readSSF(&in); err != nil {
		return 0, nil, err
	}
	switch named := streamParam(c); {
	case in.StreamID == "":
		in.StreamID = named
	case named != "" && named != in.StreamID:
		return 0, nil, badSetting("stream_id", "the query names another one")
	}
	if err := errors.Join(needStream(in.StreamID), checkText("state", orNothing(in.State), maxSSFText)); err != nil {
		return 0, nil, err
	}
	_, err := n.editSSFStream(ctx, &c.caller, in.StreamID, func(s *ssfStream, header []byte) ([]byte, error) {
		now := n.wall()
		if s.Status == ssfDisabled {
			return nil, fail(api.InvalidArgument, "the stream is disabled").with("stream_id", s.ID)
		}
		if wait := time.Duration(s.VerifiedAt+minVerification*1000-now) * time.Millisecond; wait > 0 {
			c.h.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
			return nil, fail(api.TooManyRequests, "a verification may be asked for every %d s", minVerification)
		}
		s.VerifiedAt = now
		s.add(ssfControl{At: now, State: in.State})
		return header, nil
	})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}
