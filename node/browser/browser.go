// Package browser is Revocast's module for pages, as a node serves it: ES modules
// without a build step, their types, and a demo of them. README.md says what the
// module does.
package browser

import "embed"

// Files holds what a node serves: the modules and their types at the top, and the
// demo below demo/.
//
//go:embed *.js *.d.ts demo
var Files embed.FS
