package local

import (
	"databus/pkg/service"
	"databus/services/archiver"
	"databus/services/catchup"
	"databus/services/ingest"
	"databus/services/limiter"
	"databus/services/rebuilder"
	usageaggregator "databus/services/usage-aggregator"
	usagehistory "databus/services/usage-history"
)

// Services returns all services, in the order in which data flows. This is the one place where they meet other than in topics.
func Services() []service.Service {
	return []service.Service{
		ingest.Definition().Service(),
		archiver.Definition().Service(),
		usageaggregator.Definition().Service(),
		usagehistory.Definition().Service(),
		limiter.Definition().Service(),
		rebuilder.Definition().Service(),
		catchup.Definition().Service(),
	}
}
