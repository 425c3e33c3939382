package job

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// A job runs on a broker that speaks TLS only and lets nobody in without a user: coordinator, view and worker use the
// same settings, whichever client they are made of.
func TestJobOverTLSWithAUser(t *testing.T) {
	const user, password = "jobs", "pass\u00e9, =word"
	for name, mechanism := range map[string]sasl.Mechanism{
		"PLAIN":         plain.Auth{User: user, Pass: password}.AsMechanism(),
		"SCRAM-SHA-256": scram.Auth{User: user, Pass: password}.AsSha256Mechanism(),
		"SCRAM-SHA-512": scram.Auth{User: user, Pass: password}.AsSha512Mechanism(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certified := httptest.NewTLSServer(nil) // for its certificate of 127.0.0.1
			defer certified.Close()
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100*time.Millisecond), kfake.EnableSASL(),
				kfake.Superuser(name, user, password), kfake.TLS(&tls.Config{Certificates: certified.TLS.Certificates}))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			roots := x509.NewCertPool()
			roots.AddCert(certified.Certificate())
			r := wire(&rig{t: t, cluster: cluster, brokers: cluster.ListenAddrs(), tls: &tls.Config{RootCAs: roots}, sasl: mechanism})
			r.coordinator()
			r.worker()
			r.request("one", sumRequest{N: 3})
			r.expectSum("one", 3)

			for what, change := range map[string]func(*Options){
				"without TLS":  func(o *Options) { o.TLS = nil },
				"without SASL": func(o *Options) { o.SASL = nil },
				"with another password": func(o *Options) {
					o.SASL = map[string]sasl.Mechanism{"PLAIN": plain.Auth{User: user, Pass: "x"}.AsMechanism(),
						"SCRAM-SHA-256": scram.Auth{User: user, Pass: "x"}.AsSha256Mechanism(), "SCRAM-SHA-512": scram.Auth{User: user, Pass: "x"}.AsSha512Mechanism()}[name]
				},
			} {
				o := r.options()
				change(&o)
				tm, err := topicManager(o, "test")(o.Brokers)
				if err == nil {
					_, err = tm.Partitions(r.topics.Table)
					err = errors.Join(err, tm.Close())
				}
				if err == nil {
					t.Errorf("%s: the broker lets it in, so this test shows nothing", what)
				}
				if err != nil && strings.Contains(err.Error(), password) {
					t.Errorf("%s: the password is in the error", what)
				}
			}
		})
	}
}

func TestUnknownMechanismIsRefused(t *testing.T) {
	token := oauth.Oauth(func(context.Context) (oauth.Auth, error) { return oauth.Auth{Token: "t"}, nil })
	if _, err := (Options{Brokers: []string{"127.0.0.1:1"}, Codec: NewRows(t.Context(), nil), SASL: token}).withDefaults(); err == nil || !strings.Contains(err.Error(), "OAUTHBEARER") {
		t.Errorf("got %v", err)
	}
}
