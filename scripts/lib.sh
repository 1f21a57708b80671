# shellcheck shell=bash
# What the scripts share. Settings come from the environment:
#   AWS_REGION, ECR_REPOSITORY_NAME   where images lie, when a version is named by its tag alone
#   NAME            of the container that serves (chest-ct); the one before it is NAME-previous
#   PORT            that it serves on (8080)
#   SIDE_PORT       of loopback, where a new version is tried first (8081)
#   READY_TIMEOUT   seconds until a container must be ready (120)
#   LOCK_WAIT       seconds to wait for another deploy to end (900)
#   ENV_FILE        settings for the app, one NAME=value a line (/etc/NAME.env, where it exists)
set -euo pipefail

NAME=${NAME:-chest-ct}
PORT=${PORT:-8080}
SIDE_PORT=${SIDE_PORT:-8081}
READY_TIMEOUT=${READY_TIMEOUT:-120}
LOCK_WAIT=${LOCK_WAIT:-900}
ENV_FILE=${ENV_FILE:-/etc/$NAME.env}

# Told to stop, a script exits as on an error: what it traps on exit runs to its end, however often it is told. Where EXIT
# alone is trapped, a signal that comes while bash starts a command may end it within the trap.
stopped() {
  trap '' HUP INT TERM
  exit "$1"
}
trap 'stopped 129' HUP
trap 'stopped 130' INT
trap 'stopped 143' TERM

# shellcheck disable=SC2034 # used where this is sourced
# Whatever runs the app: nothing to write to but memory, no capability, logs that don't fill the disk.
CONTAINER=(--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges
  --log-driver json-file --log-opt max-size=10m --log-opt max-file=3)

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

need() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || die "$tool is not installed; docs/deployment.md says what a machine needs"
  done
}

# The ECR address of a tag; a full name, with a slash or a colon, stays as it is.
image_of() {
  case $1 in */* | *:*)
    echo "$1"
    return
    ;;
  esac
  [ -n "${AWS_REGION:-}" ] || die "AWS_REGION is not set: such as us-east-1"
  [ -n "${ECR_REPOSITORY_NAME:-}" ] || die "ECR_REPOSITORY_NAME is not set: the ECR repository's name, such as chest-ct"
  local account
  account=$(aws sts get-caller-identity --query Account --output text) ||
    die "AWS doesn't know who is asking: on EC2 attach the instance role, elsewhere set credentials (docs/deployment.md)"
  echo "$account.dkr.ecr.$AWS_REGION.amazonaws.com/$ECR_REPOSITORY_NAME:$1"
}

# Log Docker in to the image's registry, where that is ECR.
ecr_login() {
  local registry=${1%%/*} region
  case $registry in *.dkr.ecr.*.amazonaws.com) ;; *) return 0 ;; esac
  region=${registry#*.dkr.ecr.}
  aws ecr get-login-password --region "${region%.amazonaws.com}" |
    docker login --username AWS --password-stdin "$registry" >/dev/null ||
    die "no login to $registry; the role needs ecr:GetAuthorizationToken (docs/deployment.md)"
}

# true: it runs; false: it is there and doesn't; nothing: there is none.
running() { docker container inspect --format '{{.State.Running}}' "$1" 2>/dev/null || true; }

remove() { [ -z "$(running "$1")" ] || docker rm --force "$1" >/dev/null; }

ready() { curl --fail --silent --output /dev/null --max-time 5 "http://127.0.0.1:$1/readyz"; }

# Wait until the container answers /readyz on a port of this machine; give up at once when it has stopped.
wait_ready() {
  local end=$((SECONDS + READY_TIMEOUT))
  until ready "$2"; do
    [ "$(running "$1")" = true ] || return 1
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.5
  done
}

logs_of() {
  say "--- the last lines of $1:"
  docker logs --tail 50 "$1" >&2 || true
  say "---"
}

# One deploy or rollback at a time on this machine; the next one waits.
lock() {
  local file=/tmp/$NAME.lock
  [ -e "$file" ] || : >"$file"
  exec 9<"$file"
  flock --exclusive --wait "$LOCK_WAIT" 9 || die "another deploy still runs after $LOCK_WAIT s"
}

# Undo what a deploy or rollback that was killed left half done: afterwards NAME serves, if there is one.
recover() {
  remove "$NAME-candidate"
  if [ -z "$(running "$NAME")" ]; then # killed between two renames, or there never was one
    if [ "$(running "$NAME-next")" = true ] && wait_ready "$NAME-next" "$PORT"; then docker rename "$NAME-next" "$NAME"; fi
    if [ "$(running "$NAME-previous")" = true ]; then
      docker rename "$NAME-previous" "$NAME"
      [ -z "$(running "$NAME-next")" ] || docker rename "$NAME-next" "$NAME-previous"
    fi
  fi
  remove "$NAME-next"
  if [ "$(running "$NAME")" = false ]; then
    [ "$(running "$NAME-previous")" != true ] || docker stop -t 30 "$NAME-previous" >/dev/null
    docker start "$NAME" >/dev/null || die "$NAME doesn't start again; \`docker logs $NAME\` may say why"
  fi
}
