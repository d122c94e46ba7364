// Lets the package in node/client/js, which is tested as it lies there, find jose
// where the tests have it installed: node --import ./node_sdk_resolve.mjs
import { register } from 'node:module'

const hook = `export const resolve = (name, context, next) => next(name, name === 'jose' ? { ...context, parentURL: ${JSON.stringify(import.meta.url)} } : context)`
register(`data:text/javascript,${encodeURIComponent(hook)}`)
