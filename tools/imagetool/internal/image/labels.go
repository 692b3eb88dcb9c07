package image

// LabelLicenses is the name of the label that holds an SPDX expression.
const LabelLicenses = labelPrefix + "licenses"

const labelPrefix = "org.opencontainers.image."

// Labels are the annotations of an image that the OCI defines and that we set.
type Labels struct {
	// Title is the name for people, Description one sentence.
	Title, Description string
	// Version of what is inside, and the Revision of its sources.
	Version, Revision string
	// Licenses is an SPDX expression.
	Licenses string
}

// Map returns the labels that have a value, by their full names.
func (l Labels) Map() map[string]string {
	labels := map[string]string{}
	for name, value := range map[string]string{
		"title": l.Title, "description": l.Description, "version": l.Version, "revision": l.Revision, "licenses": l.Licenses,
	} {
		if value != "" {
			labels[labelPrefix+name] = value
		}
	}
	return labels
}
