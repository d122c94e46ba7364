package node_test

import (
	"net/http"
	"testing"
	"time"
)

// A node that CONFIG is out of reach of goes on with the API keys it has. So a
// receipt for one that was revoked is not complete as long as such a node serves.
func TestReceiptOfKeysWithConfigOutOfReach(t *testing.T) {
	fleetBubble(t, 3, func(t *testing.T, f *fleet) {
		for _, cut := range []time.Duration{0, 20 * time.Second, time.Hour} {
			made := f.do(f.admin, "POST", "/v1/apps/acme/api-keys", m{"name": "x"}).want(201)
			time.Sleep(time.Second)
			f.nodes[2].config.Cut()
			time.Sleep(cut)
			r := f.do(f.admin, "DELETE", "/v1/apps/acme/api-keys/"+made.str("key.id")+"?wait=all", nil)
			after := f.nodes[2].do(made.str("api_key"), "GET", "/v1/sessions", nil)
			if r.str("receipt.status") == "complete" && after.Status == http.StatusOK {
				t.Errorf("cut for %v: receipt %s, and the key is still good", cut, r.Raw)
			}
			f.nodes[2].config.Heal()
			time.Sleep(time.Minute)
		}
	})
}
