package identity

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"golang.org/x/sync/errgroup"
)

// CassandraOptions say where a cluster is and how it is used.
type CassandraOptions struct {
	// Hosts are contact points, host:port; all nodes have the first one's port.
	Hosts []string
	// Datacenter is the one to talk to, and where Create puts replicas (NetworkTopologyStrategy). When it is empty,
	// there is one data centre and SimpleStrategy.
	Datacenter string
	// Replication is how many replicas Create asks for; 0 means 3.
	Replication int
	// Consistency of reads and writes, such as LOCAL_QUORUM (the default) or ONE.
	Consistency string
	// Writers is how many records Apply writes at once; 0 means 64.
	Writers int
	// Timeout of one statement; 0 means 15 s.
	Timeout            time.Duration
	Username, Password string
}

// parseCassandra reads a URL without its scheme: hosts?parameters.
func parseCassandra(rest string) (CassandraOptions, error) {
	hosts, query, _ := strings.Cut(rest, "?")
	o := CassandraOptions{Username: os.Getenv("CASSANDRA_USERNAME"), Password: os.Getenv("CASSANDRA_PASSWORD")}
	if strings.Contains(hosts, "@") {
		return o, errors.New("credentials do not belong into the URL; set CASSANDRA_USERNAME and CASSANDRA_PASSWORD")
	}
	for host := range strings.SplitSeq(strings.TrimSuffix(hosts, "/"), ",") {
		if host == "" || strings.Contains(host, "/") {
			return o, errors.New("the URL should look like cassandra://host1:9042,host2:9042?replication=3")
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), "9042")
		}
		o.Hosts = append(o.Hosts, host)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return o, errors.New("the URL's parameters cannot be parsed")
	}
	for name, v := range values {
		number, err := strconv.Atoi(v[0])
		switch name {
		case "datacenter":
			o.Datacenter, err = v[0], nil
		case "consistency":
			o.Consistency, err = strings.ToUpper(v[0]), nil
		case "replication":
			o.Replication = number
		case "writers":
			o.Writers = number
		case "timeout":
			o.Timeout, err = time.ParseDuration(v[0])
		default:
			return o, fmt.Errorf("parameter %q is unknown; there are replication, consistency, datacenter, writers and timeout", name)
		}
		if err != nil || len(v) != 1 || number < 0 {
			return o, fmt.Errorf("parameter %q is not valid", name)
		}
	}
	return o, nil
}

// OpenCassandra connects to a cluster.
func OpenCassandra(ctx context.Context, o CassandraOptions) (Stores, error) {
	if o.Replication == 0 {
		o.Replication = 3
	}
	if o.Writers <= 0 {
		o.Writers = 64
	}
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Second
	}
	if o.Consistency == "" {
		o.Consistency = "LOCAL_QUORUM"
	}
	fail := func(err error) error {
		return fmt.Errorf("opening identity store at cassandra://%s: %w", strings.Join(o.Hosts, ","), err)
	}
	consistency, err := gocql.ParseConsistencyWrapper(o.Consistency)
	if err != nil {
		return nil, fail(fmt.Errorf("consistency %q is unknown", o.Consistency))
	}
	if len(o.Hosts) == 0 {
		return nil, fail(errors.New("there is no host"))
	}
	config := gocql.NewCluster(o.Hosts...)
	if _, port, err := net.SplitHostPort(o.Hosts[0]); err == nil {
		if config.Port, err = strconv.Atoi(port); err != nil {
			return nil, fail(fmt.Errorf("port %q is no number", port))
		}
	}
	config.Consistency = consistency
	config.Timeout, config.WriteTimeout, config.ConnectTimeout = o.Timeout, o.Timeout, o.Timeout
	config.PageSize = 500
	// Every statement carries its own write timestamp, so that sending it again changes nothing.
	config.DefaultIdempotence = true
	config.DefaultTimestamp = false
	config.RetryPolicy = &gocql.ExponentialBackoffRetryPolicy{NumRetries: 4, Min: 50 * time.Millisecond, Max: 2 * time.Second}
	config.MaxWaitSchemaAgreement = time.Minute
	policy := gocql.RoundRobinHostPolicy()
	if o.Datacenter != "" {
		policy = gocql.DCAwareRoundRobinPolicy(o.Datacenter)
	}
	config.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(policy)
	if o.Username != "" {
		config.Authenticator = gocql.PasswordAuthenticator{Username: o.Username, Password: o.Password}
	}
	// The driver's constructor takes no context; its own timeouts end it.
	type opened struct {
		session *gocql.Session
		err     error
	}
	done := make(chan opened, 1)
	go func() {
		s, err := config.CreateSession()
		done <- opened{s, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fail(fmt.Errorf("%w; check the addresses and that the cluster answers CQL", r.err))
		}
		return &cassandraStores{options: o, session: r.session}, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.session.Close()
			}
		}()
		return nil, fail(ctx.Err())
	}
}

type cassandraStores struct {
	options CassandraOptions
	session *gocql.Session
	closed  atomic.Bool
}

func (c *cassandraStores) Keyspace(name string) (Store, error) {
	if err := checkKeyspace(name); err != nil {
		return nil, err
	}
	return &cassandraStore{stores: c, name: name}, nil
}

func (c *cassandraStores) Close() error {
	if !c.closed.Swap(true) {
		c.session.Close()
	}
	return nil
}

func (c *cassandraStores) String() string { return "cassandra://" + strings.Join(c.options.Hosts, ",") }

type cassandraStore struct {
	stores *cassandraStores
	name   string
	step   func(point string) error // a test's hook, else nil
}

func (s *cassandraStore) Keyspace() string { return s.name }

func (s *cassandraStore) query(statement string, values ...any) *gocql.Query {
	return s.stores.session.Query(statement, values...)
}

// explain tells the errors apart that callers act on.
func (s *cassandraStore) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	if s.stores.closed.Load() {
		return fmt.Errorf("%s: %w", what, errStoreClosed)
	}
	var answer gocql.RequestError
	if errors.As(err, &answer) && (answer.Code() == gocql.ErrCodeInvalid || answer.Code() == gocql.ErrCodeConfig) {
		text := strings.ToLower(answer.Message())
		if strings.Contains(text, "does not exist") || strings.Contains(text, "unconfigured table") {
			return fmt.Errorf("%s: keyspace %s: %w", what, s.name, ErrNoKeyspace)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (s *cassandraStore) Create(ctx context.Context) error {
	replication := fmt.Sprintf("{'class': 'SimpleStrategy', 'replication_factor': %d}", s.stores.options.Replication)
	if dc := s.stores.options.Datacenter; dc != "" {
		replication = fmt.Sprintf("{'class': 'NetworkTopologyStrategy', '%s': %d}", strings.ReplaceAll(dc, "'", "''"), s.stores.options.Replication)
	}
	statements := []string{fmt.Sprintf("CREATE KEYSPACE IF NOT EXISTS %s WITH replication = %s", s.name, replication)}
	for _, t := range Tables() {
		statements = append(statements, t.CreateCQL(s.name))
	}
	for _, statement := range statements {
		if err := s.query(statement).ExecContext(ctx); err != nil {
			return s.explain("creating keyspace "+s.name, err)
		}
	}
	return s.explain("creating keyspace "+s.name, s.stores.session.AwaitSchemaAgreement(ctx))
}

func (s *cassandraStore) Drop(ctx context.Context) error {
	return s.explain("dropping keyspace "+s.name, s.query("DROP KEYSPACE IF EXISTS "+s.name).ExecContext(ctx))
}

// cell is a value in CQL's binary form, which needs no conversion; nil is null.
type cell []byte

func (c cell) MarshalCQL(gocql.TypeInfo) ([]byte, error) { return c, nil }

func (c *cell) UnmarshalCQL(_ gocql.TypeInfo, data []byte) error {
	if data == nil {
		*c = nil
		return nil
	}
	*c = append(cell{}, data...)
	return nil
}

// cells binds the values of some columns; false when a part of a key is missing, so that there cannot be such a row.
func cells(columns []Column, r *Row) ([]any, bool) {
	values, complete := make([]any, len(columns)), true
	for i, c := range columns {
		v := c.Value(r)
		values[i] = cell(v)
		complete = complete && v != nil
	}
	return values, complete
}

// read calls fn for each row of a query.
func (s *cassandraStore) read(ctx context.Context, t Table, q *gocql.Query, fn func(*Row) error) error {
	iter := q.IterContext(ctx)
	values, dest := make([]cell, len(t.Columns)), make([]any, len(t.Columns))
	for i := range values {
		dest[i] = &values[i]
	}
	raw := make([][]byte, len(values))
	for iter.Scan(dest...) {
		for i, v := range values {
			raw[i] = v
		}
		row, err := t.row(raw)
		if err == nil {
			err = fn(&row)
		}
		if err != nil {
			_ = iter.Close() // the row's error is the one that counts
			return err
		}
	}
	return s.explain("reading "+t.Name, iter.Close())
}

func (s *cassandraStore) Get(ctx context.Context, account, recordKey string) (row Row, found bool, err error) {
	values, ok := cells(ByKey.Key(), &Row{Account: account, RecordKey: recordKey})
	if !ok {
		return Row{}, false, nil
	}
	q := s.query(ByKey.SelectCQL(s.name, "account = ? AND record_key = ?"), values...)
	err = s.read(ctx, ByKey, q, func(r *Row) error { row, found = *r, true; return nil })
	return row, found, err
}

func (s *cassandraStore) ByPerson(ctx context.Context, account, personID string, limit int) ([]Row, error) {
	return s.list(ctx, ByPerson, &Row{Account: account, PersonID: personID}, limit)
}

func (s *cassandraStore) ByFCID(ctx context.Context, fcid string, limit int) ([]Row, error) {
	return s.list(ctx, ByFCID, &Row{FCID: fcid}, limit)
}

func (s *cassandraStore) list(ctx context.Context, t Table, r *Row, limit int) ([]Row, error) {
	key := t.Columns[:len(t.Partition)]
	values, ok := cells(key, r)
	if !ok || limit <= 0 {
		return nil, nil
	}
	var rows []Row
	q := s.query(t.SelectCQL(s.name, strings.Join(t.names(key, "%s = ?"), " AND ")+" LIMIT ?"), append(values, limit)...)
	err := s.read(ctx, t, q, func(r *Row) error { rows = append(rows, *r); return nil })
	return rows, err
}

// scanRanges is into how many parts a scan cuts the ring: each is one query, and bounds what a coordinator works on.
const scanRanges = 32

func (s *cassandraStore) Scan(ctx context.Context, t Table, fn func(*Row) error) error {
	token := "token(" + strings.Join(t.Partition, ", ") + ")"
	statement := t.SelectCQL(s.name, token+" > ? AND "+token+" <= ?")
	const step = uint64(math.MaxUint64/scanRanges + 1)
	// No key has the least token, so an open lower bound misses nothing.
	bound := func(i uint64) int64 { return int64(i*step + 1<<63) } // 0 is the least int64
	for i := range uint64(scanRanges) {
		low, high := bound(i), int64(math.MaxInt64)
		if i < scanRanges-1 {
			high = bound(i + 1)
		}
		if err := s.read(ctx, t, s.query(statement, low, high), fn); err != nil {
			return err
		}
	}
	return nil
}

// Apply writes different records at once and each record's changes in order. There is no transaction over tables: the
// order within a change, and that a batch is applied again until it succeeds, make the tables complete.
func (s *cassandraStore) Apply(ctx context.Context, changes []Change) error {
	var order [][2]string
	records := map[[2]string][]*Change{}
	for i := range changes {
		c := &changes[i]
		if err := c.New.check(); err != nil {
			return fmt.Errorf("applying changes: %w", err)
		}
		id := [2]string{c.New.Account, c.New.RecordKey}
		if records[id] == nil {
			order = append(order, id)
		}
		records[id] = append(records[id], c)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s.stores.options.Writers)
	for _, id := range order {
		group.Go(func() error {
			for _, c := range records[id] {
				if err := s.apply(ctx, c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return s.explain("applying changes", group.Wait())
}

func (s *cassandraStore) apply(ctx context.Context, c *Change) error {
	insert := func(t Table) error {
		values, _ := cells(t.Columns, &c.New)
		return s.query(t.InsertCQL(s.name), append(values, c.New.Version)...).ExecContext(ctx)
	}
	for _, t := range []Table{ByPerson, ByFCID} {
		if t.Holds(&c.New) && !c.Remove {
			if err := insert(t); err != nil {
				return err
			}
		}
	}
	moves := len(c.Left) > 0
	if moves && s.step != nil {
		if err := s.step(MoveWritten); err != nil {
			return err
		}
	}
	for _, t := range []Table{ByPerson, ByFCID} {
		for _, left := range c.Left {
			// At equal timestamps a deletion wins: never delete where the new row stands.
			if t.place(left) == "" || t.place(left) == t.place(c.New.Place()) {
				continue
			}
			key, _ := cells(t.Key(), &Row{Account: c.New.Account, RecordKey: c.New.RecordKey, FCID: left.FCID, PersonID: left.PersonID})
			if err := s.query(t.DeleteCQL(s.name), append([]any{c.New.Version}, key...)...).ExecContext(ctx); err != nil {
				return err
			}
		}
	}
	if moves && s.step != nil {
		if err := s.step(MoveCleared); err != nil {
			return err
		}
	}
	if c.Remove {
		return nil
	}
	// At equal timestamps nulls win over values and true over false: a marker replaces its row, and stays.
	return insert(ByKey)
}
