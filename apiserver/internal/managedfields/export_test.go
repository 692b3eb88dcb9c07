package managedfields

// Planned tells whether the tracker computes writes by a plan.
func (t *Tracker) Planned() (bool, error) {
	_, err := t.compile()
	return t.plan != nil, err
}
