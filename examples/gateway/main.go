package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
)

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line or the configuration is wrong
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// options hold the command line.
type options struct {
	config, listen, admin string
	check, rules          bool
}

func run(args []string, stdout, stderr io.Writer) int {
	var opt options
	fs := flag.NewFlagSet("gateway", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&opt.config, "config", "", "configuration `file`; without one, a demo with its own backends")
	fs.BoolVar(&opt.check, "check", false, "only check the configuration")
	fs.BoolVar(&opt.rules, "rules", false, "only write Prometheus rules for the configuration's objectives")
	fs.StringVar(&opt.listen, "listen", "", "`address` to listen on, instead of server.listen")
	fs.StringVar(&opt.admin, "admin", "", "`address` of the admin server, instead of admin.listen")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case fs.NArg() > 0:
		fmt.Fprintf(stderr, "gateway: unexpected argument %q\n", fs.Arg(0))
		return exitUsage
	}
	given := false
	fs.Visit(func(f *flag.Flag) { given = given || f.Name == "config" })
	if given && opt.config == "" {
		// A script whose variable is empty must not start the demo.
		fmt.Fprintln(stderr, "gateway: -config needs a file")
		return exitUsage
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	// net/http logs what upstreams sent through package log. slog quotes it, so that no upstream
	// can forge a line.
	slog.SetDefault(log)

	// SIGHUP is caught from here on, since it would end the process otherwise. It has a channel of
	// its own: package signal drops a signal whose channel is full, and many SIGHUPs must not
	// displace a SIGTERM. One slot is enough: any number of SIGHUPs during a reload ask for one
	// more.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	outside := Config.outside
	if opt.rules {
		outside = nil // they need neither certificates nor secrets
	}
	load := func() (Config, error) { return opt.override(loadConfig(opt.config, outside)) }
	if opt.config == "" {
		d, err := startDemo()
		if err != nil {
			fmt.Fprintln(stderr, "gateway:", err)
			return exitFailed
		}
		defer d.close()
		load = func() (Config, error) { return opt.override(parseConfig("demo", []byte(d.config()))) }
	}
	cfg, err := load()
	if err != nil {
		fmt.Fprintln(stderr, describe(err))
		return exitUsage
	}
	if opt.rules {
		if err := writeRules(stdout, cfg); err != nil {
			fmt.Fprintln(stderr, "gateway:", err)
			return exitFailed
		}
		return exitOK
	}
	if opt.check {
		cfg.Telemetry.OTLP.Endpoint = "" // a check has nothing to send
	}
	g, err := newGateway(cfg, log, stdout, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "gateway:", err)
		return exitUsage
	}
	if opt.check {
		g.close(context.Background())
		fmt.Fprintln(stdout, "the configuration is good")
		return exitOK
	}
	hints := io.Discard
	if opt.config == "" {
		hints = stdout
	}
	if err := serve(g, cfg, load, hangups, hints, stderr); err != nil {
		fmt.Fprintln(stderr, "gateway:", err)
		return exitFailed
	}
	return exitOK
}

// describe returns the text of an error for the person who gave the configuration. A ConfigError
// names the file and needs no prefix.
func describe(err error) string {
	var bad *ConfigError
	if errors.As(err, &bad) {
		return err.Error()
	}
	return "gateway: " + err.Error()
}

// override returns cfg with what the command line sets instead. It passes err on.
func (o options) override(cfg Config, err error) (Config, error) {
	if err != nil {
		return Config{}, err
	}
	if o.listen != "" {
		cfg.Server.Listen = o.listen
	}
	if o.admin != "" {
		cfg.Admin.Listen = o.admin
	}
	if cfg, faults := cfg.withDefaults(); len(faults) > 0 {
		return cfg, fmt.Errorf("%s: %s", pathString(faults[0].path), faults[0].text)
	}
	return cfg, nil
}

// serve runs the gateway until a signal ends it. Each of hangups reloads it from load.
func serve(
	g *gateway, cfg Config, load func() (Config, error), hangups <-chan os.Signal, hints, stderr io.Writer,
) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)

	public, err := listen(cfg.Server.Listen)
	if err != nil {
		return fmt.Errorf("server.listen: %w (-listen takes another address)", err)
	}
	defer public.Close()
	operator, err := net.Listen("tcp", cfg.Admin.Listen)
	if err != nil {
		return fmt.Errorf("admin.listen: %w (-admin takes another address)", err)
	}
	defer operator.Close()
	scrapers, err := listenMetrics(cfg.Admin.Metrics.Listen)
	if err != nil {
		return err
	}

	g.start()
	s := startServer(g, cfg.Server, public)
	admin := newAdmin(g)
	adminServed := make(chan error, 2)
	go func() { adminServed <- admin.Serve(operator) }()
	defer admin.Close()
	if scrapers != nil {
		metrics := newMetricsServer(g)
		go func() { adminServed <- metrics.Serve(scrapers) }()
		defer metrics.Close()
	}
	if cfg.Admin.TokenEnv == "" {
		fmt.Fprintln(stderr, "the token of the admin server, until it ends:", g.token)
	}
	where := []any{"addr", public.Addr().String(), "admin", operator.Addr().String()}
	if scrapers != nil {
		where = append(where, "metrics", scrapers.Addr().String())
	}
	g.log.Info("listening", where...)
	demoHints(hints, public.Addr().String(), operator.Addr().String())

	for {
		select {
		case err := <-s.served:
			return err
		case err := <-adminServed:
			return err
		case <-hangups:
			reloadFrom(g, load)
		case sig := <-signals:
			err := drain(s, sig, signals)
			g.log.Info("ended")
			return err
		}
	}
}

// reloadFrom replaces g's configuration by what load returns. A bad configuration changes nothing.
func reloadFrom(g *gateway, load func() (Config, error)) {
	cfg, err := load()
	if err == nil {
		err = g.reload(cfg)
	}
	if err != nil {
		g.log.Error("reload refused, the old configuration stays", "err", err)
		return
	}
	g.log.Info("reloaded")
}
