package disk

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

var sizeForm = regexp.MustCompile(`^([1-9][0-9]{0,9})(KiB|MiB|GiB|TiB)$`)

// ParseSize returns the bytes of a size such as "512MiB". Its error is InvalidSpec with
// the given field.
func ParseSize(field, s string) (int64, error) {
	var n int64
	var unit string
	if sizeForm.MatchString(s) {
		if _, err := fmt.Sscanf(s, "%d%s", &n, &unit); err == nil {
			n <<= 10 * (1 + strings.Index("KMGT", unit[:1]))
		}
	}
	if n <= 0 || n > 64<<40 {
		return 0, step.Invalid(field, `a whole number with its unit, as "512MiB" or "1GiB", at most "64TiB"`, "%q is no size", s)
	}
	return n, nil
}
