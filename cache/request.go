package cache

import "net/http"

// An exchange is one request on its way through the cache.
type exchange struct {
	c      *Cache
	r      *http.Request
	server bool     // in a Middleware
	fields fieldSet // that the request has
	body   []byte   // of a QUERY
}

// A fieldSet tells which of the fields that matter a request has. To walk through the fields once
// is cheaper than to look for each.
type fieldSet uint64

// unkeyedNames are the request fields that many handlers read as if they were part of the URL (C01,
// C02) or of the method (C09). Their places are the low bits of a fieldSet.
var unkeyedNames = [...]string{
	"Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Scheme", "X-Forwarded-Port",
	"X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Path", "X-Forwarded-Ssl", "X-Host",
	"X-Original-Host", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "X-Http-Method",
	"X-Method-Override",
}

const unkeyedFields fieldSet = 1<<len(unkeyedNames) - 1
