package main

import "html/template"

// newPage parses the one page there is. Its data is a view.
func newPage() *template.Template {
	return template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fbfbf8; }
form { display: grid; gap: .5rem; margin: 1.5rem 0; }
input, textarea, button { font: inherit; padding: .4rem .6rem; border: 1px solid #bbb; border-radius: .3rem; }
button { background: #24513d; color: #fff; border: 0; justify-self: start; cursor: pointer; }
article { border-top: 1px solid #ddd; padding: .6rem 0; }
article p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
small, footer { color: #666; }
.error { background: #fbe9e7; padding: .5rem .8rem; border-radius: .3rem; }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
{{with .Error}}<p class="error" role="alert">{{.}}</p>{{end}}
<form method="post" action="/sign">
<input name="name" aria-label="Name" placeholder="Name" maxlength="100" required>
<textarea name="message" aria-label="Message" placeholder="Message" rows="3" maxlength="2000" required></textarea>
<button>Sign</button>
</form>
{{range .Entries}}<article>
<strong>{{.Name}}</strong> <small>{{.Time.Format "2006-01-02 15:04:05 MST"}}</small>
<p>{{.Message}}</p>
</article>
{{else}}{{if not $.Error}}<p>Nobody has signed yet.</p>{{end}}
{{end}}<footer><small>Served by {{.Host}}</small></footer>
</body>
</html>
`))
}
