package node_test

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/revocast/revocast/node"
	"github.com/revocast/revocast/node/api"
)

// description is what the test reads of openapi.yaml, which for that has one
// path, method, schema and property a line.
type description struct {
	query      map[string][]string            // "GET /path" to the parameters of its query, but app
	scopes     map[string]string              // "GET /path" to x-scope, "" for a public one
	properties map[string]map[string]struct{} // of each schema
	required   map[string][]string
	kinds      []string
}

var (
	yamlPath     = regexp.MustCompile(`^  (/\S*):$`)
	yamlMethod   = regexp.MustCompile(`^    (get|post|put|patch|delete|options):$`)
	yamlScope    = regexp.MustCompile(`^      x-scope: (\w+)$`)
	yamlPublic   = regexp.MustCompile(`^      security: \[\]$`)
	yamlQuery    = regexp.MustCompile(`^        - \{name: (\w+), in: query,`)
	yamlSchema   = regexp.MustCompile(`^    (\w+):$`)
	yamlProperty = regexp.MustCompile(`^        (\w+): \{`)
	yamlRequired = regexp.MustCompile(`^      required: \[(.*)\]$`)
	yamlEnum     = regexp.MustCompile(`^        - (\w+)$`)
)

func readDescription(t *testing.T) description {
	d := description{query: map[string][]string{}, scopes: map[string]string{}, properties: map[string]map[string]struct{}{}, required: map[string][]string{}}
	var section, path, operation, schema string
	lines := bufio.NewScanner(bytes.NewReader(api.OpenAPI))
	for lines.Scan() {
		line := lines.Text()
		if section == "components" && line == "  schemas:" {
			section = "schemas"
		}
		if line != "" && line[0] != ' ' {
			section = strings.TrimSuffix(line, ":")
		}
		take := func(r *regexp.Regexp) (string, bool) {
			m := r.FindStringSubmatch(line)
			if m == nil {
				return "", false
			}
			return m[len(m)-1], true
		}
		switch section {
		case "paths":
			if p, ok := take(yamlPath); ok {
				path = p
			} else if m, ok := take(yamlMethod); ok {
				operation = strings.ToUpper(m) + " " + path
				d.scopes[operation] = "missing"
			} else if s, ok := take(yamlScope); ok {
				d.scopes[operation] = s
			} else if q, ok := take(yamlQuery); ok && q != "app" {
				d.query[operation] = append(d.query[operation], q)
			} else if _, ok := take(yamlPublic); ok {
				d.scopes[operation] = ""
			}
		case "schemas":
			if s, ok := take(yamlSchema); ok {
				schema = s
				d.properties[schema] = map[string]struct{}{}
			} else if p, ok := take(yamlProperty); ok {
				d.properties[schema][p] = struct{}{}
			} else if r, ok := take(yamlRequired); ok {
				d.required[schema] = strings.Split(r, ", ")
			} else if k, ok := take(yamlEnum); ok && schema == "ErrorType" {
				d.kinds = append(d.kinds, k)
			}
		}
	}
	if len(d.scopes) == 0 || len(d.properties) == 0 || len(d.kinds) == 0 {
		t.Fatal("openapi.yaml has lost its layout")
	}
	return d
}

// TestOpenAPIRoutes: the description and the route table have the same paths,
// methods and scopes.
func TestOpenAPIRoutes(t *testing.T) {
	want := map[string]string{}
	for _, rt := range unstarted(t).node.RouteTable() {
		switch {
		case rt.Pattern == "GET /v1/sessions/{sid}/{what}":
			want["GET /v1/sessions/{sid}/events"] = api.ScopeRead
			want["GET /v1/sessions/jwks/{app}"] = ""
		case rt.Pattern == "GET /v1/receipts/{revision}":
			want[rt.Pattern] = api.ScopeRevoke // or read
		case strings.HasSuffix(rt.Pattern, "/{path...}"):
			want[strings.Replace(rt.Pattern, "...", "", 1)] = rt.Scope
		case rt.Pattern == "POST /v1/events/ping":
			want[rt.Pattern] = api.ScopeRead // of an app; or that of the cluster
		case strings.HasSuffix(rt.Pattern, "/"):
			want[rt.Pattern+"{path}"] = rt.Scope
		default:
			want[rt.Pattern] = rt.Scope
		}
	}
	if diff := cmp.Diff(want, readDescription(t).scopes); diff != "" {
		t.Errorf("-routes +openapi.yaml\n%s", diff)
	}
}

// TestOpenAPIQuery: what the description says that a query may name, the route takes,
// and no more.
func TestOpenAPIQuery(t *testing.T) {
	d := readDescription(t)
	for _, rt := range unstarted(t).node.RouteTable() {
		if rt.Open || rt.Raw {
			continue
		}
		if diff := cmp.Diff(rt.Query, d.query[rt.Pattern]); diff != "" {
			t.Errorf("%s: -route +openapi.yaml\n%s", rt.Pattern, diff)
		}
	}
}

// TestOpenAPISchemas: the description has the members of every type of package
// api, and says of each whether it is always there.
func TestOpenAPISchemas(t *testing.T) {
	d := readDescription(t)
	for _, v := range []any{
		api.APIKey{}, api.APIKeyAnswer{}, api.APIKeyList{}, api.App{}, api.AppAnswer{}, api.AppList{}, api.AppSettings{},
		api.Attributes{}, api.Authenticate{}, api.Bind{}, api.Confirmation{}, api.DPoPProof{}, api.ClientHello{}, api.ClientLogoutAnswer{}, api.ClientRefresh{}, api.ClientRefreshAnswer{}, api.ClientSession{}, api.CreateAPIKey{}, api.CreateApp{}, api.CreateSession{},
		api.Error{}, api.Impersonate{}, api.Introspection{}, api.MintAnswer{}, api.MintToken{}, api.Node{}, api.NodeList{}, api.NodeStatus{}, api.PatchSession{}, api.Problem{}, api.Ready{}, api.Receipt{}, api.ReceiptAnswer{}, api.ReceiptApplied{},
		api.Require{}, api.Revoke{}, api.RevokeAnswer{}, api.Rotate{}, api.RotateKeys{}, api.Session{}, api.SessionAnswer{},
		api.ImportSession{}, api.ImportError{}, api.ImportProgress{}, api.ImportSummary{}, api.EraseAnswer{}, api.EraseUser{}, api.PendingErasure{}, api.Remains{}, api.LazyImport{}, api.LazyImportAnswer{}, api.LazyImportQuestion{},
		api.Revoke{}, api.RevokeAnswer{}, api.Rotate{}, api.RotateKeys{}, api.Session{}, api.SessionAnswer{},
		api.SessionEvent{}, api.SessionEvents{}, api.SessionInfo{}, api.SessionList{}, api.SigningKey{}, api.SigningKeyList{},
		api.PutStored{}, api.StoreCleared{}, api.StoredAnswer{}, api.StoredList{}, api.StoredSession{}, api.TouchStored{},
		api.StreamState{}, api.SwitchOrganization{}, api.Template{}, api.TemplateAnswer{}, api.TemplateList{}, api.User{}, api.VerifyAnswer{},
		api.AuthorizationCheck{}, api.Verdict{}, api.Policy{}, api.PolicyRole{}, api.PolicyResource{}, api.PolicyScope{}, api.Permission{}, api.PutPolicy{}, api.PolicyAnswer{},
		api.LoginAnswer{}, api.ImpersonationOrder{}, api.ImpersonationToken{}, api.AuthenticateImpersonation{}, api.Attest{}, api.ExchangeAccessToken{}, api.Migrate{},
		api.Event{}, api.Changes{}, api.SSFMetadata{}, api.SSFScheme{}, api.SSFDelivery{}, api.SSFRequest{}, api.SSFStream{}, api.SSFStatus{}, api.SSFSETFault{}, api.SSFVerify{}, api.SSFReplay{},
		api.SSFPoll{}, api.SSFSetError{}, api.SSFPollAnswer{}, api.SSFKeys{},
		api.WebhookPayload{}, api.WebhookTestEvent{}, api.CreateWebhook{}, api.PatchWebhook{}, api.Webhook{}, api.Delivery{}, api.DeliveryFailing{}, api.DeliveryGap{}, api.WebhookAnswer{}, api.WebhookList{}, api.RotateSecret{}, api.ReplayWebhook{}, api.DeadLetter{}, api.DeadLetterList{}, api.DeliveryAttempt{}, api.LogoutClient{}, api.LogoutClientAnswer{}, api.LogoutClientList{},
		api.Issuer{}, api.IssuerFactor{}, api.IssuerAnswer{}, api.IssuerList{},
	} {
		typ := reflect.TypeOf(v)
		got, ok := d.properties[typ.Name()]
		if !ok {
			t.Errorf("openapi.yaml has no schema %s", typ.Name())
			continue
		}
		want, required := map[string]struct{}{}, []string(nil)
		for _, f := range reflect.VisibleFields(typ) {
			if f.Anonymous {
				continue
			}
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" {
				continue
			}
			want[name] = struct{}{}
			if !strings.Contains(options, "omit") {
				required = append(required, name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -Go +openapi.yaml\n%s", typ.Name(), diff)
		}
		if diff := cmp.Diff(required, d.required[typ.Name()]); diff != "" {
			t.Errorf("%s: required: -Go +openapi.yaml\n%s", typ.Name(), diff)
		}
	}
	for _, ref := range regexp.MustCompile(`#/components/schemas/(\w+)`).FindAllStringSubmatch(string(api.OpenAPI), -1) {
		if _, ok := d.properties[ref[1]]; !ok {
			t.Errorf("openapi.yaml refers to schema %s and has none", ref[1])
		}
	}
}

// TestErrorTypes: every error type has a status, a meaning and a place in the
// description.
func TestErrorTypes(t *testing.T) {
	want := slices.Sorted(maps.Keys(node.ErrorStatuses()))
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(node.ErrorMeanings()))); diff != "" {
		t.Errorf("meanings: -statusOf +meaning\n%s", diff)
	}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(readDescription(t).kinds))); diff != "" {
		t.Errorf("openapi.yaml: -statusOf +ErrorType\n%s", diff)
	}
	if diff := cmp.Diff(want, errorConstants(t)); diff != "" {
		t.Errorf("package api: -statusOf +constants\n%s", diff)
	}
}

// errorConstants returns the values of the constants in api/errors.go, sorted.
func errorConstants(t *testing.T) (all []string) {
	file, err := parser.ParseFile(token.NewFileSet(), "api/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, value)
		}
		return true
	})
	slices.Sort(all)
	return all
}

func TestDocuments(t *testing.T) {
	h := unstarted(t)
	page := h.do("", "GET", "/docs/errors", nil).want(200)
	for kind, status := range node.ErrorStatuses() {
		if row := fmt.Sprintf(`<tr id="%s"><td><code>%s</code><td>%d<td>`, kind, kind, status); !bytes.Contains(page.Raw, []byte(row)) {
			t.Errorf("/docs/errors lacks %s", row)
		}
	}
	yaml := h.do("", "GET", "/openapi.yaml", nil).want(200)
	if !bytes.Equal(yaml.Raw, api.OpenAPI) || yaml.Header.Get("Content-Type") != "application/yaml" {
		t.Errorf("/openapi.yaml is not the embedded file")
	}
}
