package broker

// Broker is the core. Make it with New, one Local for each loop.
type Broker struct{}

// Local gives the core's part of loop i.
func (b *Broker) Local(i int) *Local { return nil }

type inbox struct{}
