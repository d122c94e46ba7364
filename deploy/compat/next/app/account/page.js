import { cookies } from 'next/headers'
import { revocast } from '../../revocast.js'

const user = async () => (await revocast.verify((await cookies()).get('session')?.value)).userId

async function rename () {
  'use server'
  console.log(`renamed by ${await user()}`)
}

export default async function Account () {
  return <form action={rename}>{`account of ${await user()}`}<button>rename</button></form>
}
