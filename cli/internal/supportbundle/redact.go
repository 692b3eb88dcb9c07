package supportbundle

import (
	"bytes"
	"regexp"
	"sync"
)

// Removed stands where something secret was.
const Removed = "[removed]"

// rule replaces what looks secret. The template may keep groups of what was found.
type rule struct {
	// guards are in every text that the pattern matches, one of them, in small letters:
	// looking for them costs a hundredth of the pattern.
	guards   []string
	pattern  *regexp.Regexp
	template string
}

// ruleSet separates rules for the whole text from those for single lines.
type ruleSet struct{ whole, line []rule }

// secretWords end a key whose value is secret.
const secretWords = `(?:password|passwd|passphrase|token|secret|credentials?|api[-_]?key|access[-_]?key|secret[-_]?key|private[-_]?key|key[-_]?data)`

// rules in the order they are applied. Removing too much does no harm; too little does.
var rules = sync.OnceValue(func() ruleSet {
	compile := func(pattern, template string, guards ...string) rule {
		return rule{guards, regexp.MustCompile(pattern), template}
	}
	words := []string{"passw", "passphrase", "token", "secret", "credential"}
	for _, kind := range []string{"api", "access", "private"} {
		words = append(words, kind+"key", kind+"-key", kind+"_key")
	}
	words = append(words, "keydata", "key-data", "key_data")
	const key = `["']?[a-z0-9_.-]*` + secretWords
	return ruleSet{
		whole: []rule{
			// Private keys, on one line or many; one whose end was cut off goes to the end of the text.
			compile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`, Removed, "private key-----"),
			// One whose beginning was cut off: the lines of base64 before its end.
			compile(`(?:[A-Za-z0-9+/=]{16,}(?:\s|\\n)+)*[A-Za-z0-9+/=]*(?:\s|\\n)*-----END [A-Z0-9 ]*PRIVATE KEY-----`, Removed, "private key-----"),
		},
		line: []rule{
			// PEM in base64, as in kubeconfigs. Certificates go with the keys.
			compile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=]+`, Removed, "ls0tls1crudjti"),
			// Join tokens keep kind and id, which `kijabi token list` shows.
			compile(`\bkijabi\.([mn])\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_+/=-]+(?:\.[0-9a-fA-F]+)?`, "kijabi.$1.$2."+Removed, "kijabi."),
			// JSON web tokens, and key ids of clouds.
			compile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`, Removed, "eyj"),
			compile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`, Removed, "akia", "asia"),
			// Headers, and the two schemes wherever they are.
			compile(`(?i)((?:authorization|cookie)\\?["']?\s*[:=]\s*\\?["'\[]*)[^\r\n"'\\]+`, "${1}"+Removed, "authorization", "cookie"),
			compile(`(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}`, "$1$2"+Removed, "bearer", "basic"),
			// user:password@ of URLs.
			compile(`(?i)(\b[a-z][a-z0-9+.-]*://[^\s/:@"']*):[^\s/@"']+@`, "$1:"+Removed+"@", "://"),
			// A variable of the environment, as objects show it.
			compile(`(?i)(\\?"name\\?":\s*\\?"[^"]*`+secretWords+`[^"]*\\?",\s*\\?"value\\?":\s*\\?")(?:[^"\\]|\\[^"])*`, "${1}"+Removed, words...),
			// Keys that say what their values are: JSON within JSON, JSON and YAML, in single quotes, without quotes.
			compile(`(?i)(\\?`+key+`\\?["']?\s*[:=]\s*\\")(?:[^"\\]|\\[^"])*(\\")`, "${1}"+Removed+"${2}", words...),
			compile(`(?i)(`+key+`["']?\s*[:=]\s*")(?:[^"\\]|\\.)*"`, "${1}"+Removed+`"`, words...),
			compile(`(?i)(`+key+`["']?\s*[:=]\s*')[^']*'`, "${1}"+Removed+"'", words...),
			compile(`(?i)(`+key+`["']?(?:[:=]\s*|\s+[:=]\s*))[^\s"'\\{}\[\],;&]{3,}`, "${1}"+Removed, words...),
			// Options of commands: --password value.
			compile(`(?i)(--?[a-z0-9-]*`+secretWords+`["']?[\s,]+["']?)[^\s"'\\{}\[\],;=-][^\s"'\\{}\[\],;]*`, "${1}"+Removed, words...),
		},
	}
})

// apply replaces in text; lower is text in small letters.
func (r rule) apply(text, lower []byte) (replaced []byte, places int) {
	for _, guard := range r.guards {
		if !bytes.Contains(lower, []byte(guard)) {
			continue
		}
		found := r.pattern.FindAllIndex(text, -1)
		if len(found) == 0 {
			return text, 0
		}
		return r.pattern.ReplaceAll(text, []byte(r.template)), len(found)
	}
	return text, 0
}

// Redact replaces what looks like a key, a token or a password, and returns in how many
// places. The input is not changed.
func Redact(content []byte) ([]byte, int) {
	total := 0
	for _, r := range rules().whole {
		replaced, places := r.apply(content, bytes.ToLower(content))
		content, total = replaced, total+places
	}
	var out bytes.Buffer
	out.Grow(len(content))
	for line := range bytes.Lines(content) {
		lower := bytes.ToLower(line)
		for _, r := range rules().line {
			replaced, places := r.apply(line, lower)
			line, total = replaced, total+places
		}
		out.Write(line)
	}
	return out.Bytes(), total
}
