# Read by the scripts that make images, with $root set: settings, and the image tool.
export CGO_ENABLED=0 GOFLAGS='-buildvcs=false -trimpath'
: "${VERSION:?set VERSION, the version of the images, or use make}"
ARCH=${ARCH:-$(go env GOARCH)}
REVISION=${REVISION-$(git -C "$root" describe --always --abbrev=40 --exclude '*' --dirty 2>/dev/null || :)}

# The tool runs here, whatever it makes images for.
imagetool=$root/.cache/tools/imagetool
(cd "$root/tools" && GOARCH=$(go env GOHOSTARCH) go build -o "$imagetool" ./imagetool)

# compile MODULE PACKAGE PROGRAM: a static program for the images' architecture.
compile() {
	(cd "$1" && GOARCH=$ARCH go build -ldflags '-s -w' -o "$3" "$2")
}
