package step

import "testing"

func TestFolderIsReadBack(t *testing.T) {
	for _, tags := range []Tags{
		{App: "hello", Target: "dev", Life: "98767bcc", Generation: 1},
		{App: "a-1", Target: "b", Life: "0", Generation: 999_999_999},
	} {
		name, err := tags.Folder()
		if got, ok := ParseFolder(name); err != nil || !ok || got != tags {
			t.Errorf("%+v: %q is read as %+v, %v (%v)", tags, name, got, ok, err)
		}
	}
}

func TestFolderRefusesWhatNamesNoRollout(t *testing.T) {
	good := Tags{App: "hello", Target: "dev", Life: "98767bcc", Generation: 1}
	for field, spoil := range map[string]func(*Tags){
		"app":        func(t *Tags) { t.App = "../etc" },
		"target":     func(t *Tags) { t.Target = "" },
		"life":       func(t *Tags) { t.Life = "xyz" },
		"generation": func(t *Tags) { t.Generation = 0 },
	} {
		tags := good
		spoil(&tags)
		if name, err := tags.Folder(); KindOf(err) != InvalidSpec || name != "" {
			t.Errorf("wrong %s: %q, %v", field, name, err)
		}
	}
	for _, name := range []string{"", "hello", "hello.dev.98767bcc-0", "hello.dev.98767bcc-01", ".hello.dev.98767bcc-1.33", "hello.dev.98767bcc-1/x"} {
		if tags, ok := ParseFolder(name); ok {
			t.Errorf("%q is read as %+v", name, tags)
		}
	}
}
