package keypair

import "context"

// A Freeze is a freeze with exported methods.
type Freeze struct{ freeze }

func (f *Freeze) Enter(ctx context.Context) error                    { return f.enter(ctx) }
func (f *Freeze) Exit()                                              { f.exit() }
func (f *Freeze) Close(ctx context.Context) (open func(), err error) { return f.close(ctx) }
