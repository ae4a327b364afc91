package xenserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// apiError is a refusal of the pool.
type apiError struct {
	code   string
	params []string
}

// newAPIError returns the error of an ErrorDescription, or of a task's error_info.
func newAPIError(description []string) *apiError {
	if len(description) == 0 {
		return &apiError{code: "INTERNAL_ERROR", params: []string{"an error without a code"}}
	}
	return &apiError{code: description[0], params: description[1:]}
}

// param returns a parameter, "" if the error has not so many.
func (e *apiError) param(i int) string {
	if i < len(e.params) {
		return e.params[i]
	}
	return ""
}

// Error is the text of the table, else the code and the parameters that are no references.
func (e *apiError) Error() string {
	if text := answerTo(e.code).text; text != "" {
		var pairs []string
		for i := range 4 {
			pairs = append(pairs, fmt.Sprintf("{%d}", i), e.param(i), fmt.Sprintf("{%d MiB}", i), mebibytes(integer(e.param(i))))
		}
		return plain(strings.NewReplacer(pairs...).Replace(text))
	}
	told := slices.DeleteFunc(slices.Clone(e.params), func(p string) bool { return p == "" || strings.HasPrefix(p, "OpaqueRef:") })
	return plain("the pool answers " + strings.Join(append([]string{e.code}, told...), ": "))
}

// mebibytes returns a size in MiB, in bytes if it is less than 1 MiB.
func mebibytes(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// references are those of the pool. They tell users nothing, and a session's is a secret.
var references = regexp.MustCompile(`\bOpaqueRef:[0-9A-Za-z-]+`)

// plain returns a message of the pool as the text of an error: one line without references
// and without its end.
func plain(message string) string {
	message = references.ReplaceAllString(message, "...")
	return strings.TrimRight(strings.Join(strings.Fields(message), " "), ".: ")
}

// code returns the code of a refusal, "" if the pool did not answer.
func code(err error) string {
	var refused *apiError
	if errors.As(err, &refused) {
		return refused.code
	}
	return ""
}

// is reports whether err is a refusal with one of the codes.
func is(err error, codes ...string) bool { return slices.Contains(codes, code(err)) }

// answer is the meaning of a code of the XenAPI.
type answer struct {
	kind  step.Kind // "": the step is retried
	field string
	// text is the cause. "{0}" is the first parameter, and "{0 MiB}" the same in MiB.
	text string
	hint string
}

const (
	credentialsHint = "correct the user and the password where the worker finds them: the profile's file in ~/.xe.d, XENSERVER_USERNAME and XENSERVER_PASSWORD, or ~/.xe"
	spaceHint       = "remove VDIs that nothing uses, or name another SR: xe sr-list params=name-label,physical-size,physical-utilisation"
	memoryHint      = "less memory, or shut down another VM: xe host-list params=name-label,memory-free; a redeploy needs both machines for a while"
	newerHint       = "update the hosts of the pool"
	licenceHint     = "xe host-license-view shows what the licence has"
	haHint          = "high availability of the pool forbids it: xe pool-param-list uuid=... shows ha-plan-exists-for and ha-overcommitted"
	blockedHint     = "ask the pool's administrator; xe vm-param-get param-name=blocked-operations uuid=... shows what is blocked"
)

var (
	detached  = answer{kind: step.Unsupported, field: "sr", text: "no host is connected to the SR", hint: "xe pbd-plug, or name another SR"}
	outdated  = answer{kind: step.Unsupported, field: "host", text: "the pool's XenAPI does not know {0}", hint: newerHint}
	upgrading = answer{kind: step.Conflict, text: "the pool is being upgraded", hint: "deploy again when the upgrade has ended"}
	refusal   = answer{kind: step.InvalidSpec, text: "the pool refuses {1} as {0}: {2}", hint: "correct the option that this names"}
	wrongMem  = answer{kind: step.InvalidSpec, field: "memory", text: "the pool refuses the size of the memory: {0}", hint: "memory is in MiB, as 128"}
	inUse     = answer{text: "the VDI is in use: {1}", hint: "an import that was cut off keeps it for a while"}
	lacks     = answer{kind: step.Unsupported, text: "the licence of the pool does not allow {0}", hint: licenceHint}
)

// answers lists the codes whose meaning the user can act upon. [answerTo] has rules for all others.
var answers = map[string]answer{
	// Access.
	"SESSION_AUTHENTICATION_FAILED": {step.Unauthorized, "profile", "the pool refuses the user or the password", credentialsHint},
	"SUBJECT_CANNOT_BE_RESOLVED":    {step.Unauthorized, "profile", "the pool's directory service does not know the user", credentialsHint},
	"SESSION_INVALID":               {text: "the session has ended"},
	"HOST_IS_SLAVE":                 {step.InvalidSpec, "host", "the host is a member of a pool whose master is {0}", `host: "https://{0}", with the fingerprint of its certificate`},
	"RBAC_PERMISSION_DENIED":        {step.Unauthorized, "profile", "the user's role lacks the permission {0}", "give the user the role vm-admin: xe subject-role-add role-name=vm-admin uuid=..."},
	"MESSAGE_METHOD_UNKNOWN":        outdated, "MESSAGE_DEPRECATED": outdated, "MESSAGE_REMOVED": outdated, "MESSAGE_PARAMETER_COUNT_MISMATCH": outdated,

	// Hosts.
	"HOST_DISABLED":                  {step.Conflict, "", "the host is disabled, as for maintenance", "xe host-enable"},
	"HOST_DISABLED_UNTIL_REBOOT":     {step.Conflict, "", "the host is disabled until it is rebooted", "reboot the host"},
	"HOST_NOT_LIVE":                  {text: "the host does not answer the pool's master", hint: "see that the host runs: xe host-list params=name-label,enabled,host-metrics-live"},
	"HOST_STILL_BOOTING":             {text: "the host is still booting"},
	"HOST_OFFLINE":                   {text: "the host is offline", hint: "see that the host runs: xe host-list params=name-label,enabled,host-metrics-live"},
	"NOT_SUPPORTED_DURING_UPGRADE":   upgrading,
	"VM_HOST_INCOMPATIBLE_VERSION":   upgrading,
	"NO_HOSTS_AVAILABLE":             {step.Unsupported, "", "no host of the pool can run the VM", memoryHint},
	"HOST_NOT_ENOUGH_FREE_MEMORY":    {step.Unsupported, "memory", "the VM needs {0 MiB}, and the host has {1 MiB} free", memoryHint},
	"HOST_NOT_ENOUGH_PCPUS":          {step.Unsupported, "vcpus", "the VM needs {0} processors, and the host has {1}", "vcpus: {1}"},
	"MEMORY_CONSTRAINT_VIOLATION":    wrongMem,
	"VM_HVM_REQUIRED":                {step.Unsupported, "type", "the host's processor has no virtualization, or the firmware has turned it off", "turn it on in the firmware, or type: pv"},
	"VM_INCOMPATIBLE_WITH_THIS_HOST": {kind: step.Unsupported, text: "the VM cannot run on the host: {2}"},
	"VM_REQUIRES_SR":                 {step.Unsupported, "sr", "the host is not connected to the SR", "name an SR that all hosts share, or affinity: a host that has it"},
	"VM_REQUIRES_NETWORK":            {step.Unsupported, "network", "the host has no interface on the network", "name another network, or affinity: a host that has it"},
	"HOST_CANNOT_ATTACH_NETWORK":     {step.Unsupported, "network", "the host cannot attach the network", "name another network, or affinity: a host that has it"},
	"TOO_MANY_PENDING_TASKS":         {step.Exhausted, "", "the pool has too many tasks that wait", "nothing needs to be done"},

	"HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN": {step.Conflict, "", "high availability would not hold with this VM", haHint},

	// Storage.
	"SR_FULL":                    {step.NoSpace, "sr", "the SR is full: the disk needs {0 MiB}, and the SR has {1 MiB}", spaceHint},
	"SR_BACKEND_FAILURE_44":      {step.NoSpace, "sr", "the SR is full", spaceHint},
	"SR_HAS_NO_PBDS":             detached,
	"SR_NOT_ATTACHED":            detached,
	"SR_OPERATION_NOT_SUPPORTED": {step.Unsupported, "sr", "the SR does not hold disks of VMs", "xe sr-list content-type=user lists those that do"},
	"VDI_TOO_LARGE":              {step.InvalidSpec, "size", "the disk is larger than the SR allows, which is {1} bytes", "a smaller size, or another SR"},
	"VDI_IN_USE":                 inUse,
	"VDI_IO_ERROR":               {text: "the pool could not write the disk, or did not get all of it"},

	// The start of a VM.
	"BOOTLOADER_FAILED":     {step.BootFailed, "", "the boot loader says: {1}", "a kernel that pygrub can load, or type: hvm"},
	"UNKNOWN_BOOTLOADER":    {step.Unsupported, "type", "the host has no boot loader {1}", "type: hvm"},
	"DOMAIN_BUILDER_ERROR":  {step.BootFailed, "", "Xen cannot build the domain: {0}: {2}", "see whether the host runs VMs of this type, and the file /var/log/daemon.log of it"},
	"VM_BAD_POWER_STATE":    {text: "the VM is {2}, not {1}"},
	"OPERATION_BLOCKED":     {step.Conflict, "", "an administrator has blocked this: {1}", blockedHint},
	"OPERATION_NOT_ALLOWED": {kind: step.Conflict, text: "the pool does not allow this: {0}"},
	"LICENCE_RESTRICTION":   lacks,
	"FEATURE_RESTRICTED":    lacks,
	"TASK_CANCELLED":        {text: "another user has cancelled the task"},

	// Other calls at the same time.
	"OTHER_OPERATION_IN_PROGRESS": {text: "another operation goes on: {0}"},

	// Objects.
	"UUID_INVALID":        {kind: step.NotFound, text: "the pool has no {0} with UUID {1}"},
	"HANDLE_INVALID":      {text: "the {0} does not exist any more"},
	"VALUE_NOT_SUPPORTED": refusal, "INVALID_VALUE": refusal,
}

// answerTo returns the meaning of a code. The API has hundreds, and their forms tell enough.
func answerTo(code string) answer {
	if a, ok := answers[code]; ok {
		return a
	}
	switch {
	case strings.HasPrefix(code, "HA_"):
		return answer{kind: step.Conflict, hint: haHint}
	case strings.HasPrefix(code, "MAC_"):
		return answer{kind: step.InvalidSpec, field: "networks[].mac", hint: "give another mac, or leave it out"}
	case strings.HasPrefix(code, "LICEN"):
		return answer{kind: step.Unsupported, hint: licenceHint}
	case strings.HasPrefix(code, "MEMORY_CONSTRAINT_VIOLATION"):
		return wrongMem
	case strings.HasPrefix(code, "VM_REQUIRES_"), strings.HasPrefix(code, "VM_HOST_INCOMPATIBLE_"):
		return answer{kind: step.Unsupported}
	}
	return answer{} // as the errors of a storage's driver, and those of xapi itself
}

// explained returns the error of a call as a [step.Error] without an Op. The code decides its
// kind. An error without a code has none, so the step is retried.
func explained(err error) error {
	var told *step.Error
	var refused *apiError
	switch {
	case err == nil || errors.As(err, &told):
		return err
	case !errors.As(err, &refused):
		return &step.Error{Err: err}
	}
	a := answerTo(refused.code)
	e := &step.Error{Kind: a.kind, Field: a.field, Err: refused}
	e.Hint = strings.NewReplacer("{0}", refused.param(0), "{1}", refused.param(1)).Replace(a.hint)
	switch {
	case a.kind == step.Exhausted:
		e.RetryAfter = 30 * time.Second
	case refused.code == "UUID_INVALID":
		e.Field = map[string]string{"SR": "sr", "network": "network", "host": "affinity"}[refused.param(0)]
	case refused.code == "BOOTLOADER_FAILED":
		// A Python program's message is the last line of many.
		if lines := strings.Split(strings.TrimSpace(refused.param(1)), "\n"); len(lines) > 1 {
			e.Err = &apiError{refused.code, []string{refused.param(0), lines[len(lines)-1]}}
			e.Hint += "\n" + strings.Join(lines[max(0, len(lines)-20):], "\n")
		}
	}
	return e
}

// late is the error of a host that did not answer in time.
type late struct{}

func (late) Error() string        { return "no answer in time" }
func (late) Is(target error) bool { return target == context.DeadlineExceeded }

// unreachable returns the error of a host that did not answer.
func unreachable(host *url.URL, err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err // an address may have the session in it
	}
	var wrong untrusted
	switch {
	case errors.As(err, &wrong):
		e := &step.Error{Kind: step.Unauthorized, Field: "fingerprint", Err: wrong,
			Hint: "compare it with that of the host: openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem; if they are the same, " + wrong.cure}
		if errors.As(wrong.err, new(x509.HostnameError)) {
			e.Field, e.Hint = "host", "set host to a name that the certificate has; or "+e.Hint
		}
		return e
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, new(tls.RecordHeaderError)):
		return step.Invalid("host", "the https URL of the pool's master", "%s does not speak TLS", host.Host)
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		err = late{}
	}
	return &step.Error{Err: fmt.Errorf("%s: %w", host.Host, err), Hint: "see that host names the pool's master, and that the worker can reach it"}
}

// foreign returns the error of an answer that is not the XenAPI's.
func foreign(host *url.URL, resp *http.Response) error {
	e := notXenAPI(host, "HTTP "+resp.Status)
	if resp.StatusCode >= http.StatusInternalServerError {
		e.Kind = "" // it may just start
	}
	return e
}

// unreadable returns the error of an answer that cannot be decoded.
func unreadable(host *url.URL, method string, answer []byte, err error) error {
	if !bytes.Contains(answer, []byte("<methodResponse")) {
		return notXenAPI(host, "no XML-RPC")
	}
	return &step.Error{Err: fmt.Errorf("%s: the answer of %s: %w", host.Host, method, err)}
}

func notXenAPI(host *url.URL, says string) *step.Error {
	return step.Invalid("host", "the https URL of the pool's master; a proxy may have answered", "%s does not answer as a XenAPI: %s", host.Host, says)
}
