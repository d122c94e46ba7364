package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// cli is the command line. A flag of a node or of a client's connection is
// also an environment variable and a line of the configuration file; a flag
// that belongs to one call of one command is neither (env:"-").
type cli struct {
	Config configFile `placeholder:"FILE" help:"JSON file with settings, named as the flags are: {\"listen\": \":8080\"}. A flag beats the environment, which beats the file."`

	Serve      serveCmd      `cmd:"" help:"Run a node. Without any flag: everything in one process, data in ./revocast-data."`
	Broker     brokerCmd     `cmd:"" help:"Run a NATS server for nodes elsewhere, and no node."`
	Migrate    migrateCmd    `cmd:"" help:"Carry a stopped node's log to NATS servers."`
	Region     regionCmd     `cmd:"" help:"Keep a copy of another region's log, and go on with it."`
	Session    sessionCmd    `cmd:"" help:"Create, verify, read, list and revoke sessions."`
	Import     importCmd     `cmd:"" help:"Import sessions that another system began; nobody has to log in again."`
	User       userCmd       `cmd:"" help:"Log a user out, or erase all that is held of one."`
	App        appCmd        `cmd:"" help:"Apps (tenants) and their settings."`
	APIKey     apikeyCmd     `cmd:"" name:"apikey" help:"Keys for the API."`
	Key        keyCmd        `cmd:"" help:"Keys that sign JWTs."`
	ClusterKey clusterKeyCmd `cmd:"" name:"cluster-key" help:"Keys that seal the log."`
	Template   templateCmd   `cmd:"" help:"Named shapes of JWTs."`
	Webhook    webhookCmd    `cmd:"" help:"Addresses that are told of events."`
	Events     eventsCmd     `cmd:"" help:"What the log holds."`
	Subscriber subscriberCmd `cmd:"" help:"Services that hear the revocations of an app from NATS."`
	Node       nodeCmd       `cmd:"" help:"The nodes of the cluster."`
	Status     statusCmd     `cmd:"" help:"How a node is."`
	Bench      benchCmd      `cmd:"" help:"Measure a node, beside a bare handler and what others use."`
	Version    versionCmd    `cmd:"" help:"The program's version."`

	BenchBare benchBareCmd `cmd:"" name:"bench-bare" hidden:"" help:"A process of bench."`
}

// env is what a command may touch of the process.
type env struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
}

const about = `Revocast: a session store that revokes at once.

Exit codes: 0 done; 1 failed; 2 the command line is wrong; 3 not found, or the session is not good; 4 no answer now (node not ready, log full, nobody listens).`

// run runs the command that args name and returns the exit code. What goes
// wrong is one line on stderr. The environment is the process's own: kong
// reads it by itself.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	e := &env{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr}
	err := dispatch(e, args)
	if err != nil {
		fmt.Fprintln(stderr, "revocast:", oneLine(err))
	}
	return exitCode(err)
}

func dispatch(e *env, args []string) error {
	var c cli
	parser, err := kong.New(&c,
		kong.Name("revocast"), kong.Description(about), kong.DefaultEnvars("REVOCAST"),
		kong.Writers(e.stdout, e.stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	)
	if err != nil {
		return err
	}
	k, err := parser.Parse(args)
	if err != nil {
		return &usageError{fmt.Errorf("%w (see revocast %s)", err, helpFor(args))}
	}
	if what := emptyOf(k); what != "" {
		return &usageError{fmt.Errorf("%s is empty: a variable that is not set? (see revocast %s)", what, helpFor(args))}
	}
	return k.Run(e)
}

// emptyOf names an argument that was given as "" and is needed, or has the tag filled, or
// a flag with that tag: those without which the command does more than was meant, such as
// revoking what it was to spare.
func emptyOf(k *kong.Context) string {
	for _, p := range k.Path {
		switch {
		case p.Positional != nil && (p.Positional.Required || p.Positional.Tag.Has("filled")) && p.Positional.Target.IsZero():
			return p.Positional.Summary()
		case p.Flag != nil && p.Flag.Tag.Has("filled") && (p.Flag.Target.IsZero() || p.Flag.Target.Len() == 0):
			return "--" + p.Flag.Name
		}
	}
	return ""
}

// helpFor returns the arguments that show the help of the command in args.
func helpFor(args []string) string {
	var words []string
	for _, a := range args {
		if strings.HasPrefix(a, "-") || len(words) == 2 {
			break
		}
		words = append(words, a)
	}
	// Only the command's own words: a mistyped one has no help.
	known := map[string]bool{"serve": true, "broker": true, "migrate": true, "region": true, "session": true, "import": true, "user": true, "app": true, "apikey": true, "key": true,
		"cluster-key": true, "template": true, "webhook": true, "events": true, "subscriber": true, "status": true, "bench": true, "version": true}
	if len(words) == 0 || !known[words[0]] {
		return "--help"
	}
	return words[0] + " --help"
}

// settings is a configuration file: one JSON object, its members named as the
// flags are.
type settings struct {
	name   string // of the file
	values map[string]any
}

// configFile is the flag that names a configuration file. It is its own,
// because kong's JSON resolver lets the file beat the environment and ignores
// what it does not know.
type configFile string

// BeforeResolve makes the file a source of flags.
func (configFile) BeforeResolve(ctx *kong.Context, trace *kong.Path) error {
	name, ok := ctx.FlagValue(trace.Flag).(configFile)
	if !ok || name == "" {
		return nil
	}
	s, err := readSettings(string(name))
	if err != nil {
		return err
	}
	ctx.AddResolver(s)
	return nil
}

func readSettings(name string) (*settings, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	s := &settings{name: name}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&s.values); err != nil {
		return nil, fmt.Errorf("read configuration %s: want one JSON object: %w", name, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read configuration %s: there is more than one JSON object in it", name)
	}
	for setting, value := range s.values {
		switch value.(type) {
		case string, bool, json.Number:
		default:
			return nil, fmt.Errorf("setting %q in %s: want a string, a number, true or false", setting, name)
		}
	}
	return s, nil
}

// notSettings are flags that make no sense in a file.
var notSettings = []string{"help", "config"}

// Validate refuses settings that no flag has.
func (s *settings) Validate(app *kong.Application) error {
	known := map[string]bool{}
	err := kong.Visit(app, func(n kong.Visitable, next kong.Next) error {
		if f, ok := n.(*kong.Flag); ok && len(f.Envs) > 0 && !slices.Contains(notSettings, f.Name) {
			known[f.Name] = true
		}
		return next(nil)
	})
	if err != nil {
		return err
	}
	for name := range s.values {
		if !known[name] {
			return fmt.Errorf("unknown setting %q in %s", name, s.name)
		}
	}
	return nil
}

// Resolve leaves a flag alone if its environment variable is set: the
// environment beats the file.
func (s *settings) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil
		}
	}
	value, ok := s.values[flag.Name]
	if !ok || len(flag.Envs) == 0 {
		return nil, nil
	}
	if n, ok := value.(json.Number); ok {
		return n.String(), nil
	}
	return value, nil
}
