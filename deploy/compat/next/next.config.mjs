export default {
  turbopack: { root: import.meta.dirname }, // there is another package-lock.json above
  experimental: { turbopackMinify: false, cpus: 1 } // nobody downloads it, and other tests run beside it
}
