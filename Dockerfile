# The service, without the embedded server: DATABASE_URL names its PostgreSQL (compose.yaml, deploy/kubernetes, docs/operations.md).
#
#   docker build -t sealog .
#
# The base is an argument, so that a registry of your own, or a digest, can stand in its place.
ARG NODE_IMAGE=docker.io/library/node:24.21.0-trixie-slim

FROM ${NODE_IMAGE} AS modules
WORKDIR /opt/sealog
COPY package.json package-lock.json ./
# Optional packages are the embedded server and Node itself, which the base has. No package runs a script.
RUN npm ci --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund

FROM ${NODE_IMAGE}
# Nothing installs anything from here on. The folders are where volumes begin with the right owner.
RUN rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /usr/local/bin/yarn /usr/local/bin/yarnpkg /opt/yarn-* \
  && groupadd --gid 64100 sealog \
  && useradd --uid 64100 --gid 64100 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sealog \
  && install -d -o 64100 -g 64100 -m 0700 /var/lib/sealog /var/lib/sealog/signer /var/lib/sealog/months
WORKDIR /opt/sealog
COPY --from=modules /opt/sealog/node_modules ./node_modules
COPY package.json LICENSE README.md openapi.yaml ./
COPY bin ./bin
COPY deploy/entrypoint ./deploy/entrypoint
COPY migrations ./migrations
COPY src ./src
COPY docs ./docs
ENV NODE_ENV=production SEALOG_HOST=0.0.0.0 SEALOG_METRICS_PORT=9090
# By number, so that Kubernetes can see that it is not root.
USER 64100:64100
EXPOSE 8080 9090
# What it writes: the volumes, and temporary files of bundles in /tmp. Everything else may be read-only.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.SEALOG_METRICS_PORT}/healthz`).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["/opt/sealog/deploy/entrypoint"]
CMD ["serve"]
