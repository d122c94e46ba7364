package api

import _ "embed"

// OpenAPI is openapi.yaml: the whole API in OpenAPI 3.1.
//
//go:embed openapi.yaml
var OpenAPI []byte
