package ec2lab

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// params are parameters of the Query protocol below a prefix. They remember which have
// been looked at.
type params struct {
	v    url.Values
	at   string
	seen map[string]bool
}

func (p params) get(name string) string {
	p.seen[p.at+name] = true
	return p.v.Get(p.at + name)
}

func (p params) has(name string) bool { return p.v.Has(p.at + name) }

func (p params) sub(name string) params { return params{p.v, p.at + name + ".", p.seen} }

// unseen refuses a parameter that has had no effect: AWS may refuse it, or do more.
func (p params) unseen() error {
	for k := range p.v {
		if !p.seen[k] {
			return refuse("Unsupported", "The lab does nothing with the parameter %s", k)
		}
	}
	return nil
}

// seeAll is for a request that has been made before.
func (p params) seeAll() {
	for k := range p.v {
		p.seen[k] = true
	}
}

// list returns the values of name.1, name.2 and so on.
func (p params) list(name string) (all []string) {
	for i := 1; p.has(name + "." + strconv.Itoa(i)); i++ {
		all = append(all, p.get(name+"."+strconv.Itoa(i)))
	}
	return all
}

// each returns the structures name.1, name.2 and so on.
func (p params) each(name string) (all []params) {
	for i := 1; ; i++ {
		sub := p.sub(name + "." + strconv.Itoa(i))
		if !sub.any() {
			return all
		}
		all = append(all, sub)
	}
}

// any reports whether there is a parameter.
func (p params) any() bool {
	for k := range p.v {
		if strings.HasPrefix(k, p.at) {
			return true
		}
	}
	return false
}

// number returns a number that checkParams has seen.
func (p params) number(name string, otherwise int) int {
	if n, err := strconv.Atoi(p.get(name)); err == nil {
		return n
	}
	return otherwise
}

func (p params) bool(name string, otherwise bool) bool {
	if p.has(name) {
		return p.get(name) == "true"
	}
	return otherwise
}

func (p params) or(name, otherwise string) string {
	if p.has(name) {
		return p.get(name)
	}
	return otherwise
}

// index matches the number in a parameter's name.
var index = regexp.MustCompile(`\.\d+(\.|$)`)

// models has an operation's parameters with a value of each, by service and name.
var models sync.Map

// model returns the parameters of an operation: a request with each of them, which the SDK
// ships for its own tests.
func model(service, name string) (url.Values, error) {
	if m, ok := models.Load(word(service, name)); ok {
		return m.(url.Values), nil
	}
	dirs, err := moduleDirs()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dirs[service], "request_snapshot", name+".request.snap"))
	if err != nil {
		return nil, err
	}
	all := strings.TrimSpace(string(text))
	m, err := url.ParseQuery(all[strings.LastIndex(all, "\n")+1:])
	if err == nil {
		models.Store(word(service, name), m)
	}
	return m, err
}

// moduleDirs returns the folders of the SDK's modules, by service.
var moduleDirs = sync.OnceValues(func() (map[string]string, error) {
	const sdk = "github.com/aws/aws-sdk-go-v2/service/"
	out, err := exec.CommandContext(context.Background(), "go", "list", "-m", "-f", "{{.Dir}}", sdk+"ec2", sdk+"sts", sdk+"elasticloadbalancingv2").Output()
	dirs := strings.Fields(string(out))
	if err == nil && len(dirs) != 3 {
		err = fmt.Errorf("folders %q", dirs)
	}
	if err != nil {
		return nil, fmt.Errorf("find the SDK's models: %w", err)
	}
	return map[string]string{"ec2": dirs[0], "sts": dirs[1], "elasticloadbalancing": dirs[2]}, nil
})

// checkParams refuses parameters that the API does not have, values of a wrong type and
// what is missing.
func (r *request) checkParams(required []string) error {
	m, err := model(r.service, r.name)
	if err != nil {
		return err
	}
	for k, vs := range r.v {
		for _, at := range index.FindAllStringIndex(k, -1) {
			n, _ := strconv.Atoi(strings.Trim(k[at[0]:at[1]], "."))
			if before := k[:at[0]+1] + strconv.Itoa(n-1); n < 1 || n > 1 && !r.has(before) && !r.sub(before).any() {
				return refuse("InvalidParameterValue", "The parameter %s has no parameter before it", k)
			}
		}
		general := k
		for range strings.Count(k, ".") { // neighbours overlap
			general = index.ReplaceAllString(general, ".#$1")
		}
		sample, ok := m[strings.ReplaceAll(general, "#", "1")]
		if !ok {
			return refuse("UnknownParameter", "The parameter %s is not recognized", k)
		}
		if len(vs) != 1 {
			return refuse("InvalidParameterCombination", "The parameter %s is given %d times", k, len(vs))
		}
		if want := misfit(general, sample[0], vs[0]); want != "" {
			return refuse("InvalidParameterValue", "Invalid value '%s' for %s. %s", vs[0], k, want)
		}
	}
	for _, name := range required {
		if !r.has(name) && !r.sub(name).any() {
			return refuse("MissingParameter", "The request must contain the parameter %s", name)
		}
	}
	return nil
}

// misfit says what is wrong with a value, given one of the model's.
func misfit(name, sample, value string) string {
	var err error
	switch words := enums[name]; {
	case words != nil && !slices.Contains(words, value):
		return "Expected one of " + strings.Join(words, ", ")
	case sample == "true" || sample == "false":
		if value != "true" && value != "false" {
			return "Expected a boolean"
		}
	case sample == "1":
		_, err = strconv.ParseInt(value, 10, 64)
	case strings.HasPrefix(sample, "2000-01-01T"):
		_, err = time.Parse(time.RFC3339, value)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// enums are the parameters that take certain words. # stands for a number.
var enums = map[string][]string{
	"Architecture":                                       words(types.ArchitectureValues("").Values()),
	"BlockDeviceMapping.#.Ebs.VolumeType":                words(types.VolumeType("").Values()),
	"BootMode":                                           words(types.BootModeValues("").Values()),
	"CreditSpecification.CpuCredits":                     {"standard", "unlimited"},
	"ImdsSupport":                                        words(types.ImdsSupportValues("").Values()),
	"InstanceInitiatedShutdownBehavior":                  words(types.ShutdownBehavior("").Values()),
	"InstanceMarketOptions.MarketType":                   words(types.MarketType("").Values()),
	"LocationType":                                       words(types.LocationType("").Values()),
	"MetadataOptions.HttpEndpoint":                       words(types.InstanceMetadataEndpointState("").Values()),
	"MetadataOptions.HttpTokens":                         words(types.HttpTokensState("").Values()),
	"MetadataOptions.InstanceMetadataTags":               words(types.InstanceMetadataTagsState("").Values()),
	"Placement.Tenancy":                                  words(types.Tenancy("").Values()),
	"SriovNetSupport":                                    {"simple"},
	"TagSpecification.#.ResourceType":                    words(types.ResourceType("").Values()),
	"TpmSupport":                                         words(types.TpmSupportValues("").Values()),
	"VolumeType":                                         words(types.VolumeType("").Values()),
	"VirtualizationType":                                 words(types.VirtualizationType("").Values()),
	"InstanceMarketOptions.SpotOptions.SpotInstanceType": words(types.SpotInstanceType("").Values()),
}

func words[T ~string](values []T) (all []string) {
	for _, v := range values {
		all = append(all, string(v))
	}
	return all
}
