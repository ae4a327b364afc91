package xenserver

import (
	"context"
	"strconv"
)

// The records have the fields that are read, as the API names them. Enumerations are
// strings: a later version may have more values. Integers of the API are strings, too: see
// [integer].

type vmRecord struct {
	Metrics         ref               `xmlrpc:"metrics"`
	UUID            string            `xmlrpc:"uuid"`
	Name            string            `xmlrpc:"name_label"`
	PowerState      string            `xmlrpc:"power_state"` // "Halted", "Paused", "Running" or "Suspended"
	IsTemplate      bool              `xmlrpc:"is_a_template"`
	IsSnapshot      bool              `xmlrpc:"is_a_snapshot"`
	IsControlDomain bool              `xmlrpc:"is_control_domain"`
	DomainType      string            `xmlrpc:"domain_type"`
	Consoles        []ref             `xmlrpc:"consoles"`
	VBDs            []ref             `xmlrpc:"VBDs"`
	VIFs            []ref             `xmlrpc:"VIFs"`
	OtherConfig     map[string]string `xmlrpc:"other_config"`
	// CurrentOperations are what calls do to it now, by their tasks.
	CurrentOperations map[string]string `xmlrpc:"current_operations"`
	GuestMetrics      ref               `xmlrpc:"guest_metrics"`
}

type vmMetricsRecord struct {
	StartTime string `xmlrpc:"start_time"` // as "20261126T13:00:00Z"
}

// guestRecord is what a guest's tools tell.
type guestRecord struct {
	Networks map[string]string `xmlrpc:"networks"`
}

type vdiRecord struct {
	UUID        string            `xmlrpc:"uuid"`
	Name        string            `xmlrpc:"name_label"`
	SR          ref               `xmlrpc:"SR"`
	VBDs        []ref             `xmlrpc:"VBDs"`
	VirtualSize string            `xmlrpc:"virtual_size"`
	IsSnapshot  bool              `xmlrpc:"is_a_snapshot"`
	OtherConfig map[string]string `xmlrpc:"other_config"`
}

type srRecord struct {
	Name                string `xmlrpc:"name_label"`
	Type                string `xmlrpc:"type"`
	ContentType         string `xmlrpc:"content_type"`
	PhysicalSize        string `xmlrpc:"physical_size"`
	PhysicalUtilisation string `xmlrpc:"physical_utilisation"`
	PBDs                []ref  `xmlrpc:"PBDs"`
}

type networkRecord struct {
	Name string `xmlrpc:"name_label"`
	PIFs []ref  `xmlrpc:"PIFs"`
	MTU  string `xmlrpc:"MTU"`
}

type hostRecord struct {
	Name            string            `xmlrpc:"name_label"`
	Enabled         bool              `xmlrpc:"enabled"`
	SoftwareVersion map[string]string `xmlrpc:"software_version"`
	Capabilities    []string          `xmlrpc:"capabilities"`
	CPUInfo         map[string]string `xmlrpc:"cpu_info"`
	Metrics         ref               `xmlrpc:"metrics"`
	OtherConfig     map[string]string `xmlrpc:"other_config"`
}

type hostMetricsRecord struct {
	Live bool `xmlrpc:"live"` // the master hears of the host
}

type poolRecord struct {
	DefaultSR ref `xmlrpc:"default_SR"`
}

type taskRecord struct {
	UUID      string   `xmlrpc:"uuid"`
	Name      string   `xmlrpc:"name_label"`
	Status    string   `xmlrpc:"status"` // "pending", "success", "failure", "cancelling" or "cancelled"
	Progress  string   `xmlrpc:"progress"`
	Result    string   `xmlrpc:"result"`
	ErrorInfo []string `xmlrpc:"error_info"`
}

type consoleRecord struct {
	Protocol string `xmlrpc:"protocol"` // "vt100", "rfb" or "rdp"
	VM       ref    `xmlrpc:"VM"`
}

type certificateRecord struct {
	Type        string `xmlrpc:"type"` // "host", "host_internal" or "ca"
	Fingerprint string `xmlrpc:"fingerprint"`
}

// integer reads an integer of a record; one that is none is 0.
func integer(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// all returns the records of all objects of a class, as "VM".
func all[R any](ctx context.Context, p *pool, class string) (map[ref]R, error) {
	var got map[string]R // kolo knows no other keys
	if err := p.call(ctx, &got, class+".get_all_records"); err != nil {
		return nil, err
	}
	records := make(map[ref]R, len(got))
	for r, record := range got {
		records[ref(r)] = record
	}
	return records, nil
}

// one returns the record of an object of a class.
func one[R any](ctx context.Context, p *pool, class string, of ref) (record R, err error) {
	err = p.call(ctx, &record, class+".get_record", of)
	return record, err
}
