package main

import (
	ui "github.com/temporalio/ui-server/v2/server"
	"github.com/temporalio/ui-server/v2/server/config"
	"github.com/temporalio/ui-server/v2/server/server_options"
)

// startUI serves the Web UI. The process ends if the port was taken since
// choosePorts looked.
func startUI(p ports, namespace string) *ui.Server {
	s := ui.NewServer(server_options.WithConfigProvider(&config.Config{
		TemporalGRPCAddress: p.address(),
		Host:                loopback,
		Port:                p.ui,
		EnableUI:            true,
		DefaultNamespace:    namespace,
		// Without this the CSRF cookie is "Secure", browsers drop it on plain
		// http, and every button in the UI answers 403.
		CORS: config.CORS{CookieInsecure: true},
		// Keeps the browser from asking Temporal's site for news. The check for
		// new versions is off unless NotifyOnNewVersion is set.
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
