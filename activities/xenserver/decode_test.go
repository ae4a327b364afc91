package xenserver

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kolo/xmlrpc"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/morgana-deploy/morgana/need"
)

// exchange is a line of the transcript.
type exchange struct {
	Req, Resp string
	Status    int
}

// method returns the name of the method that was called.
func (e exchange) method() string {
	_, rest, _ := strings.Cut(e.Req, "<methodName>")
	name, _, _ := strings.Cut(rest, "<")
	return name
}

// transcript returns the exchanges with a real xapi 23.10.
func transcript(t testing.TB) (all []exchange) {
	t.Helper()
	f, err := os.Open(filepath.Join(need.XenAPI(t), "transcript.jsonl"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e exchange
		require.NoError(t, json.Unmarshal(lines.Bytes(), &e))
		all = append(all, e)
	}
	require.NoError(t, lines.Err())
	return all
}

// node is an element as encoding/xml sees it: it decodes answers independently of kolo.
type node struct {
	XMLName  xml.Name
	Text     string `xml:",chardata"`
	Children []node `xml:",any"`
}

func (n node) child(name string) *node {
	for i := range n.Children {
		if n.Children[i].XMLName.Local == name {
			return &n.Children[i]
		}
	}
	return nil
}

// walk returns the value of an element named value.
func (n node) walk() any {
	if len(n.Children) == 0 {
		return n.Text
	}
	switch c := n.Children[0]; c.XMLName.Local {
	case "struct":
		all := map[string]any{}
		for _, m := range c.Children {
			name := m.child("name").Text
			if name == "" {
				name = noKey
			}
			all[name] = m.child("value").walk()
		}
		return all
	case "array":
		all := []any{}
		if data := c.child("data"); data != nil {
			for _, v := range data.Children {
				all = append(all, v.walk())
			}
		}
		return all
	case "boolean":
		if b, err := strconv.ParseBool(strings.TrimSpace(c.Text)); err == nil {
			return b
		}
		return c.Text
	case "base64":
		if b, _ := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(c.Text), "")); carried(string(b)) == nil {
			return string(b)
		}
		return c.Text
	default:
		return c.Text
	}
}

// filled returns v with "" and an empty map for nil: kolo decodes both into an any as nil.
func filled(v any) any {
	switch v := v.(type) {
	case nil:
		return ""
	case map[string]any:
		if v == nil {
			return map[string]any{}
		}
		for key := range v {
			v[key] = filled(v[key])
		}
	case []any:
		for i := range v {
			v[i] = filled(v[i])
		}
	}
	return v
}

// walked decodes an answer without kolo.
func walked(t testing.TB, answer []byte) any {
	t.Helper()
	var doc node
	require.NoError(t, xml.Unmarshal(answer, &doc))
	at := &doc
	for _, name := range []string{"params", "param", "value"} {
		at = at.child(name)
		require.NotNil(t, at, name)
	}
	return at.walk()
}

// count returns the number of scalars in v.
func count(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		for _, of := range v {
			n += count(of)
		}
	case []any:
		for _, of := range v {
			n += count(of)
		}
	default:
		n = 1
	}
	return n
}

// Every field of each answer of a real xapi is decoded. That the test can see a lost one
// is shown by kolo alone, which loses some.
func TestTranscriptIsDecoded(t *testing.T) {
	exchanges := transcript(t)
	require.Len(t, exchanges, 114)
	lost := 0
	for i, e := range exchanges {
		want := walked(t, []byte(e.Resp))
		var got, alone any
		require.NoError(t, decode([]byte(e.Resp), &got), "%d: %s", i, e.method())
		require.Equal(t, want, filled(got), "%d: %s", i, e.method())
		if err := xmlrpc.Response(e.Resp).Unmarshal(&alone); err != nil || count(alone) < count(want) {
			lost++
		}
	}
	assert.Greater(t, lost, 50, "kolo alone loses fields")
}

// The answers decode into the records, too, with the codes of the failures.
func TestTranscriptAsResults(t *testing.T) {
	host := &url.URL{Scheme: "https", Host: "xen1"}
	codes := map[string]int{}
	for i, e := range transcript(t) {
		var err error
		switch whole := walked(t, []byte(e.Resp)).(map[string]any); v := whole["Value"].(type) {
		case string:
			var got string
			if err = result(host, e.method(), []byte(e.Resp), &got); err == nil {
				assert.Equal(t, v, got)
			}
		case bool:
			var got bool
			if err = result(host, e.method(), []byte(e.Resp), &got); err == nil {
				assert.Equal(t, v, got)
			}
		case []any:
			var got []ref
			if err = result(host, e.method(), []byte(e.Resp), &got); err == nil {
				assert.Len(t, got, len(v))
			}
		case map[string]any:
			if e.method() != "task.get_record" {
				continue
			}
			var got taskRecord
			require.NoError(t, result(host, e.method(), []byte(e.Resp), &got))
			assert.Equal(t, v["status"], got.Status, i)
			assert.Equal(t, v["uuid"], got.UUID)
			assert.Equal(t, v["progress"], got.Progress)
			assert.Equal(t, v["result"], got.Result)
			if made, err := taskResult(got.Result); assert.NoError(t, err) && got.Result != "" {
				assert.Equal(t, "<value>"+made+"</value>", got.Result)
			}
		case nil:
			err = result(host, e.method(), []byte(e.Resp), nil)
			assert.Error(t, err)
		}
		if err != nil {
			codes[code(err)]++
			var told *apiError
			require.ErrorAs(t, err, &told)
			assert.Contains(t, told.param(0), "OpaqueRef:")
		}
	}
	assert.Equal(t, map[string]int{"VDI_IN_USE": 3, "VM_BAD_POWER_STATE": 2}, codes)
}

func response(value string) []byte {
	return []byte(`<?xml version="1.0"?><methodResponse><params><param>` + value + `</param></params></methodResponse>`)
}

func TestDecode(t *testing.T) {
	type record struct {
		Label string            `xmlrpc:"name_label"`
		Last  string            `xmlrpc:"z_last"`
		Is    bool              `xmlrpc:"is"`
		Map   map[string]string `xmlrpc:"map"`
		Refs  []ref             `xmlrpc:"refs"`
	}
	member := func(name, value string) string {
		return "<member><name>" + name + "</name>" + value + "</member>"
	}
	after := member("z_last", "<value>end</value>")
	for name, c := range map[string]struct {
		value string
		want  record
	}{
		"an empty value":              {member("name_label", "<value></value>") + after, record{Last: "end"}},
		"an empty element":            {member("name_label", "<value/>") + after, record{Last: "end"}},
		"an empty string":             {member("name_label", "<value><string/></value>") + after, record{Last: "end"}},
		"nil":                         {member("name_label", "<value><nil/></value>") + after, record{Last: "end"}},
		"an empty value of no field":  {member("foreign", "<value></value>") + after, record{Last: "end"}},
		"blanks":                      {member("name_label", "<value> a b\n</value>") + after, record{Label: " a b\n", Last: "end"}},
		"blanks of a string":          {member("name_label", "<value>\n <string> a </string>\n</value>") + after, record{Label: " a ", Last: "end"}},
		"only blanks":                 {member("name_label", "<value>  </value>") + after, record{Label: "  ", Last: "end"}},
		"entities":                    {member("name_label", "<value>&lt;a&gt; &amp; &#13;&#x20ac;</value>") + after, record{Label: "<a> & \r€", Last: "end"}},
		"CDATA and a comment":         {member("name_label", "<value>a<![CDATA[<b>]]><!-- no -->c</value>") + after, record{Label: "a<b>c", Last: "end"}},
		"an int64":                    {member("name_label", "<value><i8>4194304000000</i8></value>") + after, record{Label: "4194304000000", Last: "end"}},
		"a double":                    {member("name_label", "<value><double>nan</double></value>") + after, record{Label: "nan", Last: "end"}},
		"a date":                      {member("name_label", "<value><dateTime.iso8601>20261126T10:00:00Z</dateTime.iso8601></value>") + after, record{Label: "20261126T10:00:00Z", Last: "end"}},
		"base64":                      {member("name_label", "<value><base64>aGVs\nbG8=</base64></value>") + after, record{Label: "hello", Last: "end"}},
		"booleans":                    {member("is", "<value><boolean>1</boolean></value>") + after, record{Is: true, Last: "end"}},
		"a map with an empty value":   {member("map", "<value><struct>"+member("a", "<value></value>")+member("b", "<value>2</value>")+"</struct></value>") + after, record{Map: map[string]string{"a": "", "b": "2"}, Last: "end"}},
		"a map with an empty key":     {member("map", "<value><struct>"+member("", "<value>1</value>")+"<member><name/><value/></member></struct></value>") + after, record{Map: map[string]string{noKey: ""}, Last: "end"}},
		"a map with escaped keys":     {member("map", "<value><struct>"+member("a&amp;b", "<value>1</value>")+"</struct></value>") + after, record{Map: map[string]string{"a&b": "1"}, Last: "end"}},
		"an array with empty values":  {member("refs", "<value><array><data><value></value><value>r</value><value/></data></array></value>") + after, record{Refs: []ref{"", "r", ""}, Last: "end"}},
		"an array without data":       {member("refs", "<value><array/></value>") + after, record{Last: "end"}},
		"an empty map, of no field":   {member("x", "<value><struct></struct></value>") + after, record{Last: "end"}},
		"an empty array, of no field": {member("x", "<value><array><data/></array></value>") + after, record{Last: "end"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got record
			require.NoError(t, decode(response("<value><struct>"+c.value+"</struct></value>"), &got))
			if len(got.Map) == 0 {
				got.Map = nil
			}
			if len(got.Refs) == 0 {
				got.Refs = nil
			}
			assert.Equal(t, c.want, got)
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("<value><array><data>", 100_000)
	for name, text := range map[string]string{
		"nothing":        "",
		"HTML":           "<html><body>Welcome to XenServer</body></html>",
		"an early end":   "<methodResponse><params><param><value><struct><member><name>a</name><value>b</val",
		"no end":         "<methodResponse><params><param><value>a</value>",
		"a bare member":  string(response("<value><struct><member><value>a</value></member></struct></value>")),
		"no value":       string(response("<value><struct><member><name>a</name></member></struct></value>")),
		"a text element": string(response("<value><string><b>a</b></string></value>")),
		"wrong base64":   string(response("<value><base64>a</base64></value>")),
		"depth":          deep,
	} {
		t.Run(name, func(t *testing.T) {
			var got any
			assert.Error(t, decode([]byte(text), &got))
		})
	}
}

// What kolo decodes behind the pass is what a plain decoder sees, or both refuse it.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "<value/>", "<value> a </value>", "<value><string>a</string></value>", "<value><base64>aGVsbG8=</base64></value>", "<value><base64>aGXsbG8=</base64></value>",
		"<value><struct><member><name>a</name><value/></member><member><name></name><value><int>1</int></value></member></struct></value>",
		"<value><array><data><value/><value><boolean>1</boolean></value><value>a<![CDATA[b]]></value></data></array></value>",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		var got any
		if decode(response(value), &got) != nil {
			return
		}
		var doc node
		require.NoError(t, xml.Unmarshal(response(value), &doc))
		assert.Equal(t, first(doc).walk(), filled(got))
	})
}

// first returns the first element named value, in the order of the text.
func first(n node) *node {
	if n.XMLName.Local == "value" {
		return &n
	}
	for _, c := range n.Children {
		if v := first(c); v != nil {
			return v
		}
	}
	return nil
}

func TestEncode(t *testing.T) {
	type record struct {
		Name  string            `xmlrpc:"name_label"`
		Size  int64             `xmlrpc:"virtual_size"`
		Share bool              `xmlrpc:"sharable"`
		Other map[string]string `xmlrpc:"other_config"`
	}
	call, err := encode("VDI.create", []any{ref("OpaqueRef:1"), record{"a<b", 1 << 40, true, map[string]string{"a&b": ""}}, []string{"x", ""}, 1.5})
	require.NoError(t, err)
	var doc node
	require.NoError(t, xml.Unmarshal(call, &doc))
	assert.Equal(t, "VDI.create", doc.child("methodName").Text)
	var args []any
	for _, p := range doc.child("params").Children {
		args = append(args, p.child("value").walk())
	}
	assert.Equal(t, []any{"OpaqueRef:1", map[string]any{
		"name_label": "a<b", "virtual_size": "1099511627776", "sharable": true, "other_config": map[string]any{"a&b": ""},
	}, []any{"x", ""}, "1.5"}, args)
	assert.NotContains(t, string(call), "<int>", "the API's integers are strings")

	for _, bad := range []any{"a\x00b", "a\xffb", map[string]string{"a": "\x1b"}, map[string]string{"\x1b": "a"}, nil, uint8(1), struct{ A string }{"\x01"}} {
		_, err := encode("VM.create", []any{bad})
		assert.Error(t, err, fmt.Sprintf("%#v", bad))
	}
}
