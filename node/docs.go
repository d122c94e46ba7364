package node

import (
	"html/template"
	"maps"
	"net/http"
	"slices"

	"github.com/revocast/revocast/node/api"
)

// meaning says in a sentence what a caller should make of each error type.
var meaning = map[string]string{
	api.InvalidArgument:         "The request is not what the API takes; the message names the field.",
	api.TooManyArguments:        "Name the session by exactly one of session_id, session_token and session_jwt.",
	api.Unauthorized:            "The API key is missing, wrong, expired or revoked, or is not of the app it was used with.",
	api.AttestationFailed:       "The JWT of the issuer proves nothing here; error_details.reason says why in a word. Nothing was made or changed.",
	api.ImpersonationEnded:      "The impersonation token is not one of this app, has expired, or its session has ended. Ask for a new one.",
	api.JWTNotYetValid:          "The JWT counts from a time that is still to come on this node: the clocks of two nodes differ. Nobody was logged out. Try again, or show the token. A revoke takes such a JWT.",
	api.StepUpRequired:          "The session is good, and its user must prove anew or better who they are: WWW-Authenticate says what is asked for (RFC 9470). Add the factor with PATCH and try again.",
	api.SessionNotFound:         "There is no such session; error_details.reason says whether it is unknown, expired, idle or revoked. The user must log in again.",
	api.NotAuthorized:           "The session is good, and none of its roles permits the action on the resource by the app's policy. Nothing was changed.",
	api.Forbidden:               "The API key lacks the scope that this route needs.",
	api.AppSuspended:            "The app is suspended; its sessions are kept and refused meanwhile.",
	api.NotFound:                "There is no such route, key, template or issuer, or the app has no such setting.",
	api.AppNotFound:             "There is no such app, or the API key is not one of it.",
	api.MethodNotAllowed:        "The route exists with other methods; the header Allow names them.",
	api.NotAcceptable:           "The document is there, but in no form that the header Accept takes.",
	api.Conflict:                "It was changed by somebody else meanwhile. Read it and try again.",
	api.AlreadyExists:           "Something of that name exists already, or did until recently.",
	api.RevokedMeanwhile:        "The user was logged out everywhere since the log-in that makes this session began.",
	api.IdempotencyEnded:        "The session that this Idempotency-Key made has ended. Use a new key.",
	api.SessionLimit:            "The user has as many sessions as the app allows at a time. End one, or have the app evict the oldest.",
	api.TokenReuse:              "A token that was replaced was shown after its grace, so somebody may have stolen it. The app wants the session ended for that, and it is. The user must log in again.",
	api.TooManyRequests:         "This may be asked for only so often; the header Retry-After says when again.",
	api.BodyTooLarge:            "The body is over 64 KiB, or a line of an import is over 16 KiB.",
	api.ClaimsTooLarge:          "Custom claims are over 4 KiB, the data of a stored session is over 6,000 bytes, or all that is kept with a session is over 8 KiB.",
	api.MediaType:               "The Content-Type is not what the route takes: application/json, or a form for OAuth, or NDJSON for an import.",
	api.IdempotencyReused:       "This Idempotency-Key came with another body before.",
	api.HeaderTooLarge:          "A header that bears credentials is over 8 KiB.",
	api.Internal:                "The node met something it did not foresee. Its log has the request id.",
	api.NotImplemented:          "The route does not do that; the message says what. A status list says what is so now.",
	api.NodeStale:               "This node cannot be sure that it knows all that was committed, so it does not answer. Nobody was logged out. Try again, or another node.",
	api.LogUnavailable:          "The log gave no answer, so the change may or may not have been made; or it does not hold what the answer needs until that is repaired. Repeat it.",
	api.LogFull:                 "The log has reached its budget. Verifying and revoking go on; creating does not.",
	api.MemoryFull:              "The node is short of memory. Verifying, changing and revoking go on; creating does not. Try another node, or again once sessions have ended.",
	api.IssuerUnreachable:       "The keys of the issuer are not known here and could not be fetched just now. Nobody was logged out. Try again.",
	api.HomeUnreachable:         "The region in which the session lives, or which keeps what the answer needs of it, cannot be reached from here. Nobody was logged out. Try again.",
	api.HomeReauth:              "The region in which the session lives cannot be reached from here, and the app would rather have the user log in again.",
	api.ConsistencyTimeout:      "This node has not come as far as the request demands within the time, or could not make sure in time that there is no such session, app or key. Nobody was logged out. Try again.",
	api.ImportSourceUnavailable: "Nobody here knows the token, and the system that the app's sessions come from did not answer, or may not be asked so often. Nobody was logged out; ask again.",
	api.ForeignEnded:            "The token was imported before, and its session has ended or its user was logged out everywhere since it began. It is not brought back; error_details.reason says how it ended.",
	api.ImportExpired:           "Of a line of an import: the session was over before it came.",
	api.ForeignConflict:         "The token was imported before as the session of another user.",
	api.JWTExpired:              "The JWT has expired, and this route takes only one that has not. Its session may well be good: ask for a fresh one.",
	api.FacadeOff:               "The app has not the API of that vendor. Add the vendor to the app's setting compat: PATCH /v1/apps/{app}.",
	api.ProofInvalid:            "The session is bound to a key of its client, and the request came without one good, unused DPoP proof of it (RFC 9449). Nobody was logged out.",
	api.ProofNonce:              "The DPoP proof must hold the nonce of the header DPoP-Nonce. Make another proof with it and try again.",
	api.ClusterOutdated:         "Some node of the cluster runs a version that does not know what is asked for. Finish the upgrade and try again.",
	api.NoSession:               "A page showed no session that is good; error_details.reason says whether it is missing, malformed, unknown, expired, idle or revoked, or whether a JWT came where the token is needed. The user must log in again. A cookie of a session that has ended is taken away.",
	api.CursorGone:              "The feed cannot go on from this cursor: the log is another one, or it is too far ahead. Read GET /v1/revocations, and follow from the revision of that.",
	api.FeedNotFound:            "No node serves a feed of that name any more. Open another one.",
	api.OriginNotAllowed:        "The page that asked is of an origin that the session's app does not list (its setting origins), or a cookie came without Origin and Sec-Fetch-Site. Nothing was done.",
}

var errorPage = template.Must(template.New("errors").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Revocast errors</title>
<h1>Errors</h1>
<p>Every error has the body <code>{status_code, request_id, error_type, error_message, error_url, error_details}</code>.
Types are stable, messages are not.</p>
<table>
<tr><th>error_type<th>status<th>meaning
{{range .}}<tr id="{{.Type}}"><td><code>{{.Type}}</code><td>{{.Status}}<td>{{.Meaning}}
{{end}}</table>
</html>
`))

// errorDocs serves the page that every error_url points to.
func (n *Node) errorDocs(w http.ResponseWriter, _ *http.Request) {
	type row struct {
		Type    string
		Status  int
		Meaning string
	}
	var rows []row
	for _, kind := range slices.Sorted(maps.Keys(statusOf)) {
		rows = append(rows, row{kind, statusOf[kind], meaning[kind]})
	}
	document(w, "text/html; charset=utf-8")
	_ = errorPage.Execute(w, rows) // fails only when the client has gone
}

// openapi serves the description of the API.
func (n *Node) openapi(w http.ResponseWriter, _ *http.Request) {
	document(w, "application/yaml")
	_, _ = w.Write(api.OpenAPI) // a client that went away reads nothing
}

// document sets the headers of a page that is the same for everybody.
func document(w http.ResponseWriter, contentType string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Request-Id", newRequestID())
	h.Set("Content-Security-Policy", "default-src 'none'")
}
