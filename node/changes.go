package node

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/revocast/revocast/events"
)

// maxFactorType is how long a type of factor may be, in bytes, to be told to
// subscribers: it is the caller's text.
const maxFactorType = 64

// changesBetween returns what subscribers, who see no private part, are told of a
// change of one; nil: nothing.
func changesBetween(was, is *events.Private) *events.Changes {
	c := events.Changes{
		FactorsAdded: factorsAdded(was.Factors, is.Factors),
		Claims: !bytes.Equal(object(was.CustomClaims), object(is.CustomClaims)) ||
			!slices.Equal(was.Roles, is.Roles) || was.Organization != is.Organization,
	}
	if before, now := level(was), level(is); before != now {
		c.Level, c.LevelBefore = now, before
	}
	if c.FactorsAdded == nil && c.Level == "" && !c.Claims {
		return nil
	}
	return &c
}

// factorsAdded returns the types of the factors that are new, each once. A factor
// that was used again is the same.
func factorsAdded(was, is json.RawMessage) (types []string) {
	if bytes.Equal(was, is) {
		return nil
	}
	var before, now []json.RawMessage
	if len(was) > 0 && json.Unmarshal(was, &before) != nil || json.Unmarshal(is, &now) != nil {
		return nil
	}
	held := map[string]bool{}
	for _, raw := range before {
		held[string(factorIdentity(raw))] = true
	}
	for _, raw := range now {
		var f factor
		if held[string(factorIdentity(raw))] || json.Unmarshal(raw, &f) != nil || f.Type == "" || len(f.Type) > maxFactorType {
			continue
		}
		if f.Type != impersonatedFactor && !slices.Contains(types, f.Type) {
			types = append(types, f.Type)
		}
	}
	return types
}
