package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
	"go.uber.org/dig"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// clusterName is written into a new file and cannot change later.
	clusterName = "active"
	storeName   = "sqlite"
	// historyShards is written into a new file; later starts use the file's
	// number. With queueReads 1, 4 and 16 shards are equally fast.
	historyShards = 4
	// queueReads is a limit per second that SQLite never reaches, so it limits nothing.
	queueReads = 2000
	// namespaceCache is how long a service caches namespaces.
	namespaceCache = 2 * time.Second
	// retention is how long a closed workflow is kept.
	retention = 30 * 24 * time.Hour
)

// startTemporal starts all services of a Temporal server on a SQLite file,
// which it makes if it is missing. The frontend may not serve yet when it
// returns; see awaitReady.
func startTemporal(db, namespace string, p ports, logger log.Logger) (temporal.Server, error) {
	// Errors here come from the user's file or disk.
	if err := makeFile(db); err != nil {
		return nil, inputErrorf("make database %s: %w", db, err)
	}
	if err := makeNamespace(db, namespace); err != nil {
		return nil, inputErrorf("open database %s: %w", db, err)
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(serverConfig(db, p)),
		temporal.ForServices(temporal.DefaultServices),
		// Static hosts instead of gossip: one process needs no membership
		// protocol, its four listeners, or the seconds it takes to converge.
		temporal.WithStaticHosts(map[primitives.ServiceName]static.Hosts{
			primitives.FrontendService: static.SingleLocalHost(p.address()),
			primitives.HistoryService:  static.SingleLocalHost(address(p.history)),
			primitives.MatchingService: static.SingleLocalHost(address(p.matching)),
			primitives.WorkerService:   static.SingleLocalHost(address(p.worker)),
		}),
		temporal.WithLogger(logger),
		// Given explicitly, or the server warns that it has neither.
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper {
			return authorization.NewNoopClaimMapper()
		}),
		temporal.WithDynamicConfigClient(dynamicConfig()),
	)
	if err != nil { // the whole chain is kilobytes long
		return nil, fmt.Errorf("start temporal: %w", dig.RootCause(err))
	}
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("start temporal: %w", errors.Join(err, server.Stop()))
	}
	return server, nil
}

// serverConfig has no PProf port and no Metrics: zero means no listener.
func serverConfig(db string, p ports) *config.Config {
	off := config.ArchivalNamespaceDefaults{
		History:    config.HistoryArchivalNamespaceDefaults{State: "disabled"},
		Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
	}
	service := func(port int) config.Service {
		return config.Service{RPC: config.RPC{GRPCPort: port, BindOnIP: loopback}}
	}
	return &config.Config{
		Persistence: config.Persistence{
			DefaultStore:     storeName,
			VisibilityStore:  storeName,
			NumHistoryShards: historyShards,
			DataStores:       map[string]config.DataStore{storeName: {SQL: sqliteConfig(db)}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10, // required, without meaning for one cluster
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{clusterName: {
				Enabled:                true,
				InitialFailoverVersion: 1,
				RPCAddress:             p.address(),
			}},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services: map[string]config.Service{
			string(primitives.FrontendService): service(p.frontend),
			string(primitives.HistoryService):  service(p.history),
			string(primitives.MatchingService): service(p.matching),
			string(primitives.WorkerService):   service(p.worker),
		},
		Archival: config.Archival{
			History:    config.HistoryArchival{State: "disabled"},
			Visibility: config.VisibilityArchival{State: "disabled"},
		},
		NamespaceDefaults: config.NamespaceDefaults{Archival: off},
		// The server's own system workflows use this address.
		PublicClient: config.PublicClient{HostPort: p.address()},
	}
}

// dynamicConfig holds the settings that differ from the server's defaults.
func dynamicConfig() dynamicconfig.StaticClient {
	return dynamicconfig.StaticClient{
		// The check asks temporal.io about new versions and tells it which
		// SDKs connect. Nothing here talks to the internet.
		dynamicconfig.EnableServerVersionCheck.Key(): false,
		// See addAttributes.
		dynamicconfig.NamespaceCacheRefreshInterval.Key(): namespaceCache,
		// Partitions spread a task queue over hosts. On one host they only
		// send pollers to a partition without tasks.
		dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():  1,
		dynamicconfig.MatchingNumTaskqueueWritePartitions.Key(): 1,
		// By default a shard reads each task queue at most 20 times a second.
		// One workflow needs more: each of its tasks then waits 50 ms, and six
		// tasks take 300 ms instead of 35.
		dynamicconfig.TransferProcessorMaxPollRPS.Key():   queueReads,
		dynamicconfig.TimerProcessorMaxPollRPS.Key():      queueReads,
		dynamicconfig.VisibilityProcessorMaxPollRPS.Key(): queueReads,
		dynamicconfig.OutboundProcessorMaxPollRPS.Key():   queueReads,
		// Lists and counts per second. One busy UI page and one "status" use
		// up the default of 10.
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): 100,
		// Workflows kept in memory; 128000 by default.
		dynamicconfig.HistoryCacheHostLevelMaxSize.Key(): 8192,
	}
}

// sqliteConfig has the pragmas every connection gets.
func sqliteConfig(db string) *config.SQL {
	return &config.SQL{
		PluginName:   sqliteplugin.PluginName,
		DatabaseName: uriPath(db),
		ConnectAttributes: map[string]string{
			"mode": "rw",
			// With WAL readers do not wait for the writer. With synchronous=1
			// (NORMAL) a commit does not wait for the disk: kill -9 loses
			// nothing, a power cut may lose the last commits.
			"journal_mode": "wal",
			"synchronous":  "1",
			"busy_timeout": "10000", // milliseconds
		},
	}
}

// uriPath makes a path part of a SQLite "file:" URI.
func uriPath(path string) string { return (&url.URL{Path: path}).EscapedPath() }

// makeFile makes a database with Temporal's schema if the file is missing or
// empty. It makes it under another name and renames it: a start that is killed
// must not leave half a schema, which later starts would take for a whole one.
func makeFile(db string) error {
	switch info, err := os.Stat(db); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	case info.Size() > 0:
		return nil
	}
	part := db + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// Histories hold the inputs of workflows: only the owner may read them.
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only for Sync
	cfg := sqliteConfig(part)
	// No journal and no syncs: a half-made file is thrown away. The server's
	// SQLite plugin never closes this connection, so it must have no -wal file,
	// which would stay beside the renamed file.
	cfg.ConnectAttributes["journal_mode"] = "memory"
	cfg.ConnectAttributes["synchronous"] = "0"
	if err := sqlite.SetupSchema(cfg); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(part, db)
}

// makeNamespace writes the namespace into the file before the server reads it,
// so nothing waits for the server's caches. An existing one is not changed.
func makeNamespace(db, namespace string) error {
	ns, err := sqlite.NewNamespaceConfig(clusterName, namespace, false, searchAttributes)
	if err != nil {
		return err
	}
	ns.Detail.Config.Retention = durationpb.New(retention)
	return sqlite.CreateNamespaces(sqliteConfig(db), ns)
}
