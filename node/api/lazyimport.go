package api

// LazyImport says which system is asked about a foreign token that nobody here knows.
type LazyImport struct {
	// URL is where the token is POSTed, signed as Standard Webhooks are: https, or what the operator of the nodes allows.
	URL string `json:"url"`
	// Secret signs: whsec_ and 24 to 64 bytes of base64. It is write-only; absent in the first PUT, one is made and shown once, in a later one it stays.
	Secret string `json:"secret,omitempty"`
	// TimeoutMS is how long an answer is waited for, 100 to 5000; 0: 2000.
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
}

// LazyImportAnswer answers GET, PUT and DELETE of /v1/apps/{app}/lazy-import.
type LazyImportAnswer struct {
	Meta
	LazyImport LazyImport `json:"lazy_import"`
	Revision   string     `json:"revision,omitempty"`
}

// LazyImportQuestion is what the other system is asked. It answers 200 with an ImportSession without a token, or 404 or 204 for a token that is not good.
type LazyImportQuestion struct {
	Token string `json:"token"`
	AppID string `json:"app_id"`
}
