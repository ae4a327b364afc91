package main

import (
	ui "github.com/temporalio/ui-server/v2/server"
	"github.com/temporalio/ui-server/v2/server/config"
	"github.com/temporalio/ui-server/v2/server/server_options"
)

// startUI serves the Web UI, whose assets are part of its module. It ends the
// process if the port was taken since choosePorts looked.
func startUI(p ports, namespace string) *ui.Server {
	s := ui.NewServer(server_options.WithConfigProvider(&config.Config{
		TemporalGRPCAddress: p.address(),
		Host:                loopback,
		Port:                p.ui,
		EnableUI:            true,
		DefaultNamespace:    namespace,
		// The CSRF cookie is "Secure" otherwise, and browsers drop it on
		// plain http, so every button in the UI would answer 403.
		CORS: config.CORS{CookieInsecure: true},
		// The browser would ask Temporal's site for news. The other call home,
		// for new versions, is off unless NotifyOnNewVersion asks for it.
		DisableNewsFetch: true,
		HideLogs:         true,
	}))
	go func() {
		if err := s.Start(); err != nil { // a port it cannot bind exits in Start
			complain(err)
		}
	}()
	return s
}
