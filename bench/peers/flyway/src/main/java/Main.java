import java.net.URI;
import org.flywaydb.core.Flyway;

/** Applies the migrations of the folder in its argument to DATABASE_URL, with the defaults of Flyway. */
public final class Main {
  public static void main(String[] arguments) {
    URI url = URI.create(System.getenv("DATABASE_URL"));
    String jdbc = "jdbc:postgresql://" + url.getHost() + ":" + url.getPort() + url.getPath();
    Flyway.configure()
        .dataSource(jdbc, url.getUserInfo(), null)
        .locations("filesystem:" + arguments[0])
        .load()
        .migrate();
  }
}
