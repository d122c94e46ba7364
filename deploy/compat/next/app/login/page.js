export default function Login () {
  return <p>log in</p>
}
