package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"time"

	"github.com/revocast/revocast/node/browser"
)

// moduleTypes are the files of the module for browsers, below /browser/, and what
// each is. Browsers run no module that is not JavaScript by its Content-Type.
var moduleTypes = map[string]string{
	".js": "text/javascript; charset=utf-8", ".ts": "text/plain; charset=utf-8",
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
}

// moduleFile answers GET /browser/{file}: the module that pages import, of this
// node's version. Any page may: it is public, and says nothing of anybody.
func (n *Node) moduleFile(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Cross-Origin-Resource-Policy", "cross-origin")
	n.embedded(w, r, r.PathValue("file"), "public, max-age=300")
}

// embedded answers with a file of package browser, or 304, or 404.
func (n *Node) embedded(w http.ResponseWriter, r *http.Request, name, cache string) {
	text, err := fs.ReadFile(browser.Files, name)
	if err != nil {
		n.serve(route{pattern: "unknown", open: true, handle: unknownRoute}).ServeHTTP(w, r)
		return
	}
	sum := sha256.Sum256(text)
	document(w, moduleTypes[path.Ext(name)])
	w.Header().Set("Cache-Control", cache)
	w.Header().Set("ETag", `"`+base64.RawURLEncoding.EncodeToString(sum[:12])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}
