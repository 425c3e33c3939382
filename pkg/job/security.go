package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
)

// kafkaSecurity are the worker's options for what secure does to goka's clients.
func (o Options) kafkaSecurity() (opts []kgo.Opt) {
	if o.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(o.TLS.Clone()))
	}
	if o.SASL != nil {
		opts = append(opts, kgo.SASL(o.SASL))
	}
	return opts
}

// secure makes goka's clients encrypt and authenticate as the worker's does.
func (o Options) secure(c *sarama.Config) error {
	if o.TLS != nil {
		c.Net.TLS.Enable, c.Net.TLS.Config = true, o.TLS.Clone()
	}
	if o.SASL == nil {
		return nil
	}
	s := &c.Net.SASL
	s.Enable, s.Mechanism = true, sarama.SASLMechanism(o.SASL.Name())
	switch s.Mechanism {
	case sarama.SASLTypePlaintext:
		// sarama builds the message of RFC 4616 itself, so it is taken apart: [authzid] NUL authcid NUL passwd.
		_, message, err := o.SASL.Authenticate(context.Background(), "")
		if err != nil {
			return fmt.Errorf("preparing SASL: %w", err)
		}
		parts := bytes.Split(message, []byte{0})
		if len(parts) != 3 {
			return errors.New("preparing SASL: the message of PLAIN does not have three parts")
		}
		s.AuthIdentity, s.User, s.Password = string(parts[0]), string(parts[1]), string(parts[2])
	case sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512:
		// sarama wants a user and a password, and gives them to the client that it is given, which has its own.
		s.User, s.Password = "-", "-"
		s.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{mechanism: o.SASL} }
	default:
		return fmt.Errorf("preparing SASL: mechanism %q is unknown; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", s.Mechanism)
	}
	return nil
}

// scramClient is one conversation of a mechanism of franz-go, in the form that sarama knows.
type scramClient struct {
	mechanism sasl.Mechanism
	session   sasl.Session
	done      bool
}

func (s *scramClient) Begin(string, string, string) error { return nil }

func (s *scramClient) Step(challenge string) (response string, err error) {
	var next []byte
	if s.session == nil {
		s.session, next, err = s.mechanism.Authenticate(context.Background(), "")
	} else {
		s.done, next, err = s.session.Challenge([]byte(challenge))
	}
	return string(next), err
}

func (s *scramClient) Done() bool { return s.done }
