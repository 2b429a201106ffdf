package rediscache

import "github.com/trivet-go/trivet/cache"

// maxName is how many bytes a key or a tag may have.
const maxName = 8 << 10

// A NoticeKind tells what a [Notice] is about.
type NoticeKind string

const (
	// NoticeKey means that the value of Key has changed.
	NoticeKey NoticeKind = "key"
	// NoticeTag means that the values with Tag have changed. How says what is to become of the old
	// ones.
	NoticeTag NoticeKind = "tag"
	// NoticeGap means that other notices may have been missed, for the reason in Err: every value
	// may be old.
	NoticeGap NoticeKind = "gap"
)

// A Notice is what [Invalidations.Run] tells. It is a plain value.
type Notice struct {
	Kind      NoticeKind
	Key       string             // of a key; empty for others
	Tag       string             // of a tag; empty for others
	How       cache.Invalidation // of a tag: cache.Soft or cache.Hard
	Err       error              // of a gap: what has happened
	Connected bool               // notices are heard from now on; false during an outage
}

// The first byte of a notice's text. The rest is the key or the tag.
const (
	keyText     = 'k'
	softTagText = 's'
	hardTagText = 'h'
)

// parseNotice reads the text of a notice.
func parseNotice(text string) (Notice, error) {
	if text == "" || len(text) > 1+maxName {
		return Notice{}, errMalformed
	}
	switch name := text[1:]; text[0] {
	case keyText:
		return Notice{Kind: NoticeKey, Key: name}, nil
	case softTagText:
		return Notice{Kind: NoticeTag, Tag: name, How: cache.Soft}, nil
	case hardTagText:
		return Notice{Kind: NoticeTag, Tag: name, How: cache.Hard}, nil
	}
	return Notice{}, errMalformed
}
