package registry

// PlanCreateForTest does all of a create but its commit.
func (e *Engine) PlanCreateForTest(kind *Kind, op Operation) error {
	_, err := e.planCreate(Caller{}, kind, op, nil)
	return err
}
