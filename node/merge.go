package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/revocast/revocast/node/api"
	"github.com/revocast/revocast/signer"
)

// maxClaims is how many bytes the custom claims of a session may have.
const maxClaims = 4 << 10

// given reports whether the member was in the body; null counts as absent.
func given(raw json.RawMessage) bool {
	return len(raw) > 0 && !bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}

// mergePatch applies a JSON merge patch (RFC 7396 section 2) to a document,
// which may be missing. Numbers stay as they were written.
func mergePatch(target, patch json.RawMessage) (json.RawMessage, error) {
	p, err := untyped(patch)
	if err != nil {
		return nil, err
	}
	var t any
	if len(target) > 0 {
		if t, err = untyped(target); err != nil {
			return nil, err
		}
	}
	return marshal(merge(t, p))
}

// merge is MergePatch of RFC 7396 section 2.
func merge(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for name, value := range p {
		if value == nil {
			delete(t, name)
		} else {
			t[name] = merge(t[name], value)
		}
	}
	return t
}

// overlay returns the members of both objects; where both have one, that of
// top.
func overlay(base, top json.RawMessage) (json.RawMessage, error) {
	all, over := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if len(base) > 0 {
		if err := json.Unmarshal(base, &all); err != nil {
			return nil, fmt.Errorf("overlay claims: %w", err)
		}
	}
	if err := json.Unmarshal(top, &over); err != nil {
		return nil, fmt.Errorf("overlay claims: %w", err)
	}
	for name, value := range over {
		all[name] = value
	}
	return marshal(all)
}

func untyped(raw json.RawMessage) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return v, nil
}

// checkObject refuses what is no JSON object.
func checkObject(field string, raw json.RawMessage) error {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '{' {
		return fail(api.InvalidArgument, "%s: want an object", field).with("field", field)
	}
	return nil
}

const claimsField = "session_custom_claims"

// checkClaims refuses custom claims, or a patch of them, that could not be
// minted.
func checkClaims(raw json.RawMessage) error {
	if err := checkObject(claimsField, raw); err != nil {
		return err
	}
	err := signer.CheckCustom(raw)
	if reserved, ok := errors.AsType[*signer.ReservedClaimError](err); ok {
		return fail(api.InvalidArgument, "%s: the claim %q is reserved", claimsField, reserved.Name).
			with("field", claimsField).with("claim", reserved.Name).because(err)
	} else if err != nil {
		return fail(api.InvalidArgument, "%s: nested deeper than %d levels, or a claim without a name", claimsField, signer.MaxDepth).
			with("field", claimsField).because(err)
	}
	return nil
}

// patchClaims returns the claims with the patch applied, within the limit.
func patchClaims(claims, patch json.RawMessage) (json.RawMessage, error) {
	out, err := mergePatch(claims, patch)
	if err != nil {
		return nil, err
	}
	if len(out) > maxClaims {
		return nil, fail(api.ClaimsTooLarge, "the custom claims are over %d bytes", maxClaims)
	}
	return out, nil
}

// checkFactors refuses authentication factors that are not objects with a
// "type", or that no JWT could hold, and returns them as an array.
func checkFactors(field string, factors []json.RawMessage) (json.RawMessage, error) {
	for i, raw := range factors {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := checkObject(at, raw); err != nil {
			return nil, err
		}
		var f struct {
			Type any `json:"type"`
		}
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, fail(api.InvalidArgument, "%s: not JSON", at).because(err)
		}
		if s, ok := f.Type.(string); !ok || s == "" {
			return nil, fail(api.InvalidArgument, "%s.type: required, a string", at).with("field", at+".type")
		}
	}
	all, err := marshal(factors)
	if err != nil {
		return nil, err
	}
	// Where the stytch profile puts them, they may nest only so deep.
	nested := append(append([]byte(`{"session":{"factors":`), all...), "}}"...)
	if err := signer.CheckCustom(nested); err != nil {
		return nil, fail(api.InvalidArgument, "%s: nested too deeply", field).with("field", field).because(err)
	}
	return all, nil
}
