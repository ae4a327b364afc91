package main

import "google.golang.org/grpc/resolver"

// ownScheme is the scheme of gRPC targets that mean our own server.
const ownScheme = "morgana-dev"

// A dev is a gRPC resolver: whenever a connection is lost gRPC asks it for the
// server's address, for a server that was started anew may have another port.
var _ resolver.Builder = dev{}

func (d dev) Scheme() string { return ownScheme }

// OverrideAuthority implements [resolver.AuthorityOverrider].
func (d dev) OverrideAuthority(resolver.Target) string { return "localhost" }

// Build implements [resolver.Builder].
func (d dev) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	r := resolving{d, cc}
	r.ResolveNow(resolver.ResolveNowOptions{})
	return r, nil
}

type resolving struct {
	dev dev
	cc  resolver.ClientConn
}

// ResolveNow keeps the old address if no server runs.
func (r resolving) ResolveNow(resolver.ResolveNowOptions) {
	var s serverInfo
	if readJSON(r.dev.path(lastFile), &s) == nil {
		_ = r.cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: s.Address}}}) // gRPC asks again
	}
}

func (r resolving) Close() {}
